//! A decoder's configuration with every default of its family filled in.

use super::family::Family;
use flametune_peft::Norm;

use super::fields::ConfigFile;
use super::rope::RopeConfig;
use crate::error::Result;

/// Where queries and keys are normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// Nowhere.
    None,
    /// Each head on its own (Qwen 3, Gemma 3).
    PerHead,
    /// All heads together, before they are split (OLMo 2).
    Full,
}

/// Where a block normalises, and how its halves join the residual stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockStyle {
    /// `x + f(norm(x))` for attention, then for the MLP.
    PreNorm,
    /// `x + norm(f(norm(x)))` (Gemma 2 and 3).
    Sandwich,
    /// `x + norm(f(x))` (OLMo 2).
    PostNorm,
    /// `x + attention(norm(x)) + mlp(norm(x))` with one shared norm (StableLM).
    Parallel,
}

/// The gate of the MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `silu(gate) · up`.
    Silu,
    /// `gelu(gate) · up` with the tanh form of GELU.
    GeluTanh,
}

/// A mixture of experts in place of the MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MoeConfig {
    /// Experts a layer has.
    pub num_local_experts: usize,
    /// Experts a token uses.
    pub num_experts_per_tok: usize,
}

/// What one layer does differently from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerConfig {
    /// Keys a query sees, itself included; `None` means all before it.
    pub sliding_window: Option<usize>,
    /// Which rotation the layer uses, an index into [`DecoderConfig::ropes`]; `None` for none.
    pub rope: Option<usize>,
}

/// A decoder of the Llama family, every default resolved.
///
/// # Units
/// Widths and counts are in elements; `sliding_window` and `max_position_embeddings` in tokens.
///
/// # Source
/// - the `configuration_*.py` of each family in transformers 5.23
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// The architecture.
    pub family: Family,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream, `d_model`.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key/value heads; divides the query heads.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// The longest sequence the model is declared for.
    pub max_position_embeddings: usize,
    /// The normalisation of hidden states.
    pub norm: Norm,
    /// Where queries and keys are normalised.
    pub qk_norm: QkNorm,
    /// Where blocks normalise.
    pub block: BlockStyle,
    /// The gate of the MLP.
    pub hidden_act: Activation,
    /// A mixture of experts in place of the MLP.
    pub moe: Option<MoeConfig>,
    /// Whether query, key and value have biases.
    pub qkv_bias: bool,
    /// Whether the attention output has a bias.
    pub o_bias: bool,
    /// Whether the MLP has biases.
    pub mlp_bias: bool,
    /// Whether query, key and value, and gate and up, are one matrix each (Phi 3).
    pub fused_projections: bool,
    /// Whether logits use the embedding's matrix.
    pub tie_word_embeddings: bool,
    /// The factor on embeddings.
    pub embedding_multiplier: f64,
    /// Whether the model multiplies vectors in front of the embeddings as well (Granite); in Gemma
    /// the factor is the embedding's own.
    pub multiplies_prompts: bool,
    /// The factor on what a block adds to the residual stream.
    pub residual_multiplier: f64,
    /// The factor on attention scores.
    pub attention_multiplier: f64,
    /// The divisor of logits.
    pub logits_scaling: f64,
    /// Soft cap of attention scores.
    pub attn_logit_softcapping: Option<f64>,
    /// Soft cap of logits.
    pub final_logit_softcapping: Option<f64>,
    /// The rotations that layers choose from.
    pub ropes: Vec<RopeConfig>,
    /// The layers.
    pub layers: Vec<LayerConfig>,
}

impl DecoderConfig {
    /// Reads a `config.json` of one of the decoder families.
    ///
    /// # Errors
    /// When a field is missing, out of range or contradicts another, and for options that are not
    /// implemented.
    pub fn read(file: &ConfigFile) -> Result<Self> {
        let family = Family::read(file)?;
        let hidden_size = file.usize("hidden_size")?;
        let num_attention_heads = file.usize("num_attention_heads")?;
        let num_key_value_heads = file.usize_or(
            "num_key_value_heads",
            default_kv_heads(family, num_attention_heads),
        )?;
        if !num_attention_heads.is_multiple_of(num_key_value_heads) {
            return Err(file.invalid(
                "num_key_value_heads",
                format!("must divide num_attention_heads {num_attention_heads}, got {num_key_value_heads}"),
            ));
        }
        let head_dim = read_head_dim(file, family, hidden_size, num_attention_heads)?;
        let gemma = matches!(family, Family::Gemma | Family::Gemma2 | Family::Gemma3Text);
        let ropes = read_ropes(file, family, head_dim)?;
        let layers = read_layers(file, family, ropes.len())?;
        refuse_unsupported(file, family)?;
        Ok(Self {
            family,
            vocab_size: file.usize("vocab_size")?,
            hidden_size,
            intermediate_size: file.usize("intermediate_size")?,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            max_position_embeddings: file
                .usize_or("max_position_embeddings", default_positions(family))?,
            norm: read_norm(file, family)?,
            qk_norm: match family {
                Family::Qwen3 | Family::Gemma3Text => QkNorm::PerHead,
                Family::Olmo2 => QkNorm::Full,
                _ => QkNorm::None,
            },
            block: match family {
                Family::Gemma2 | Family::Gemma3Text => BlockStyle::Sandwich,
                Family::Olmo2 => BlockStyle::PostNorm,
                Family::StableLm if file.bool_or("use_parallel_residual", false)? => {
                    BlockStyle::Parallel
                }
                _ => BlockStyle::PreNorm,
            },
            hidden_act: read_activation(file, family)?,
            moe: read_moe(file, family)?,
            qkv_bias: match family {
                Family::Qwen2 => true,
                Family::StableLm => file.bool_or("use_qkv_bias", false)?,
                _ => file.bool_or("attention_bias", false)?,
            },
            o_bias: match family {
                Family::Qwen2 | Family::StableLm => false,
                _ => file.bool_or("attention_bias", false)?,
            },
            mlp_bias: file.bool_or("mlp_bias", false)?,
            fused_projections: family == Family::Phi3,
            tie_word_embeddings: file
                .bool_or("tie_word_embeddings", gemma || family == Family::SmolLm3)?,
            embedding_multiplier: if gemma {
                root(hidden_size)
            } else {
                file.f64_or("embedding_multiplier", 1.0)?
            },
            multiplies_prompts: !gemma,
            residual_multiplier: file.f64_or("residual_multiplier", 1.0)?,
            attention_multiplier: read_attention_multiplier(file, family, head_dim)?,
            logits_scaling: positive(file, "logits_scaling", file.f64_or("logits_scaling", 1.0)?)?,
            attn_logit_softcapping: read_softcap(file, family, "attn_logit_softcapping", 50.0)?,
            final_logit_softcapping: read_softcap(file, family, "final_logit_softcapping", 30.0)?,
            ropes,
            layers,
        })
    }

    /// The number of layers.
    pub fn num_hidden_layers(&self) -> usize {
        self.layers.len()
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "model widths are far below 2^52"
)]
fn root(width: usize) -> f64 {
    (width as f64).sqrt()
}

fn positive(file: &ConfigFile, field: &str, value: f64) -> Result<f64> {
    if value > 0.0 {
        return Ok(value);
    }
    Err(file.invalid(field, format!("must be positive, got {value}")))
}

fn default_kv_heads(family: Family, num_attention_heads: usize) -> usize {
    match family {
        Family::Mistral | Family::Mixtral => 8.min(num_attention_heads),
        Family::SmolLm3 | Family::Gemma2 | Family::Gemma3Text => 4.min(num_attention_heads),
        Family::Gemma => 16.min(num_attention_heads),
        Family::Qwen2 | Family::Qwen3 | Family::StableLm => 32.min(num_attention_heads),
        _ => num_attention_heads,
    }
}

fn default_positions(family: Family) -> usize {
    match family {
        Family::Mistral | Family::Mixtral | Family::Gemma3Text => 131_072,
        Family::Qwen2 | Family::Qwen3 | Family::SmolLm3 => 32_768,
        Family::Gemma | Family::Gemma2 => 8192,
        Family::Phi3 | Family::StableLm => 4096,
        _ => 2048,
    }
}

/// Whether layers of the family may see a window of keys only.
fn has_windows(family: Family) -> bool {
    !matches!(
        family,
        Family::Llama | Family::Gemma | Family::Olmo2 | Family::Granite | Family::StableLm
    )
}

fn read_head_dim(
    file: &ConfigFile,
    family: Family,
    hidden_size: usize,
    num_attention_heads: usize,
) -> Result<usize> {
    let stated = match (file.opt_usize("head_dim")?, family) {
        (Some(_), _) => Some(file.usize("head_dim")?),
        (None, Family::Gemma | Family::Gemma2 | Family::Gemma3Text) => Some(256),
        (None, Family::Qwen3) => Some(128),
        (None, _) => None,
    };
    match stated {
        Some(head_dim) => Ok(head_dim),
        None if hidden_size.is_multiple_of(num_attention_heads) => {
            Ok(hidden_size / num_attention_heads)
        }
        None => Err(file.invalid(
            "num_attention_heads",
            format!("must divide hidden_size {hidden_size}, got {num_attention_heads}"),
        )),
    }
}

fn read_norm(file: &ConfigFile, family: Family) -> Result<Norm> {
    let rms_eps = |default| positive(file, "rms_norm_eps", file.f64_or("rms_norm_eps", default)?);
    Ok(match family {
        Family::StableLm => Norm::Layer {
            eps: positive(file, "layer_norm_eps", file.f64_or("layer_norm_eps", 1e-5)?)?,
        },
        Family::Gemma | Family::Gemma2 | Family::Gemma3Text => Norm::RmsOffset {
            eps: rms_eps(1e-6)?,
        },
        Family::Mixtral | Family::Phi3 | Family::Olmo2 => Norm::Rms {
            eps: rms_eps(1e-5)?,
        },
        _ => Norm::Rms {
            eps: rms_eps(1e-6)?,
        },
    })
}

fn read_activation(file: &ConfigFile, family: Family) -> Result<Activation> {
    let default = match family {
        Family::Gemma | Family::Gemma2 | Family::Gemma3Text => "gelu_pytorch_tanh",
        _ => "silu",
    };
    let field = match file.opt_str("hidden_activation")? {
        Some(_) => "hidden_activation",
        None => "hidden_act",
    };
    match file.opt_str(field)?.unwrap_or(default) {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
        // Early Gemma files say "gelu"; the published models use the tanh form all the same.
        "gelu" if family == Family::Gemma => Ok(Activation::GeluTanh),
        other => Err(ConfigFile::unsupported(
            field,
            other,
            "use silu or gelu_pytorch_tanh",
        )),
    }
}

fn read_moe(file: &ConfigFile, family: Family) -> Result<Option<MoeConfig>> {
    if family != Family::Mixtral {
        return Ok(None);
    }
    let num_local_experts = file.usize_or("num_local_experts", 8)?;
    let num_experts_per_tok = file.usize_or("num_experts_per_tok", 2)?;
    if num_experts_per_tok > num_local_experts {
        return Err(file.invalid(
            "num_experts_per_tok",
            format!(
                "must not exceed num_local_experts {num_local_experts}, got {num_experts_per_tok}"
            ),
        ));
    }
    Ok(Some(MoeConfig {
        num_local_experts,
        num_experts_per_tok,
    }))
}

fn read_attention_multiplier(file: &ConfigFile, family: Family, head_dim: usize) -> Result<f64> {
    match family {
        Family::Granite => file.f64_or("attention_multiplier", 1.0),
        Family::Gemma2 | Family::Gemma3Text => {
            let scalar = file.f64_or("query_pre_attn_scalar", 256.0)?;
            Ok(1.0 / positive(file, "query_pre_attn_scalar", scalar)?.sqrt())
        }
        _ => Ok(1.0 / root(head_dim)),
    }
}

fn read_softcap(
    file: &ConfigFile,
    family: Family,
    field: &str,
    gemma2_default: f64,
) -> Result<Option<f64>> {
    let stated = match family {
        Family::Gemma2 if !file.raw().contains_key(field) => Some(gemma2_default),
        Family::Gemma2 | Family::Gemma3Text => file.opt_f64(field)?,
        _ => None,
    };
    stated.map(|cap| positive(file, field, cap)).transpose()
}

/// The rotations a model has: one, or for Gemma 3 a global and a local one.
fn read_ropes(file: &ConfigFile, family: Family, head_dim: usize) -> Result<Vec<RopeConfig>> {
    let theta = match family {
        Family::Mixtral | Family::Gemma3Text => 1_000_000.0,
        Family::SmolLm3 => 2_000_000.0,
        _ => 10_000.0,
    };
    let partial = if family == Family::StableLm {
        0.25
    } else {
        1.0
    };
    if family != Family::Gemma3Text {
        return Ok(vec![RopeConfig::read(
            file, None, head_dim, theta, partial,
        )?]);
    }
    let global = RopeConfig::read(file, Some("full_attention"), head_dim, theta, partial)?;
    let local = if file.nested("rope_parameters").is_some() {
        RopeConfig::read(file, Some("sliding_attention"), head_dim, 10_000.0, partial)?
    } else {
        // transformers 4 keeps the local base in a field of its own, never scaled.
        RopeConfig {
            rope_theta: file.f64_or("rope_local_base_freq", 10_000.0)?,
            rot_dim: head_dim,
            attention_factor: 1.0,
            scaling: super::rope::RopeScaling::Default,
        }
    };
    Ok(vec![global, local])
}

fn read_layers(file: &ConfigFile, family: Family, ropes: usize) -> Result<Vec<LayerConfig>> {
    /// No published model comes near this.
    const MAX_LAYERS: usize = 4096;
    let num_layers = file.usize("num_hidden_layers")?;
    if num_layers > MAX_LAYERS {
        return Err(file.invalid(
            "num_hidden_layers",
            format!("must be at most {MAX_LAYERS}, got {num_layers}"),
        ));
    }
    let window = read_window(file, family)?;
    let types = file.opt_array("layer_types")?;
    let no_rope = file.opt_array("no_rope_layers")?;
    for (field, list) in [("layer_types", types), ("no_rope_layers", no_rope)] {
        if let Some(list) = list.filter(|list| list.len() < num_layers) {
            return Err(file.invalid(
                field,
                format!("must hold {num_layers} entries, got {}", list.len()),
            ));
        }
    }
    let pattern = file.usize_or("sliding_window_pattern", 6)?;
    let interval = file.usize_or("no_rope_layer_interval", 4)?;
    let max_window_layers = file.opt_usize("max_window_layers")?.unwrap_or(28);
    (0..num_layers)
        .map(|index| {
            let sliding = match types.map(|types| types[index].as_str()) {
                Some(Some("sliding_attention")) if has_windows(family) => true,
                Some(Some("full_attention")) => false,
                Some(other) => {
                    return Err(ConfigFile::unsupported(
                        "layer_types",
                        other.unwrap_or("a value that is no string"),
                        "use full_attention, or sliding_attention in a family that has windows",
                    ));
                }
                None => match family {
                    Family::Gemma2 => index % 2 == 0,
                    Family::Gemma3Text => (index + 1) % pattern != 0,
                    Family::Qwen2 | Family::Qwen3 => index >= max_window_layers,
                    _ => true,
                },
            };
            let rotates = match (family, no_rope.map(|list| list[index].as_u64())) {
                (Family::SmolLm3, Some(flag)) => flag != Some(0),
                (Family::SmolLm3, None) => (index + 1) % interval != 0,
                _ => true,
            };
            let local_rope = usize::from(sliding && ropes > 1);
            Ok(LayerConfig {
                sliding_window: window.filter(|_| sliding),
                rope: rotates.then_some(local_rope),
            })
        })
        .collect()
}

fn read_window(file: &ConfigFile, family: Family) -> Result<Option<usize>> {
    let stated = match file.opt_usize("sliding_window")? {
        Some(_) => Some(file.usize("sliding_window")?),
        None => None,
    };
    let absent = !file.raw().contains_key("sliding_window");
    Ok(match family {
        Family::Mistral | Family::Gemma2 | Family::Gemma3Text if absent => Some(4096),
        Family::Mistral | Family::Mixtral | Family::Phi3 => stated,
        Family::Gemma2 | Family::Gemma3Text => stated,
        Family::Qwen2 | Family::Qwen3 | Family::SmolLm3
            if file.bool_or("use_sliding_window", false)? =>
        {
            stated.or(Some(4096))
        }
        _ => None,
    })
}

/// Options that change the result and are not implemented.
fn refuse_unsupported(file: &ConfigFile, family: Family) -> Result<()> {
    if file.bool_or("use_bidirectional_attention", false)? {
        return Err(ConfigFile::unsupported(
            "use_bidirectional_attention",
            "true",
            "only causal decoders are implemented",
        ));
    }
    if family == Family::StableLm && file.bool_or("qk_layernorm", false)? {
        return Err(ConfigFile::unsupported(
            "qk_layernorm",
            "true",
            "only StableLM models without it are implemented",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
