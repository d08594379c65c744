//! llama.cpp's metadata to a Hugging Face `config.json`.

use flametune_quant::gguf::{Array, FromValue, GgufFile, Metadata, Value as GgufValue};
use serde_json::{Map, Value, json};

use super::architecture::Architecture;
use super::rope;
use crate::error::{Error, Result};

const EMBEDDING: &str = "token_embd.weight";

/// The numbers and widths of attention heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heads {
    pub(super) query: usize,
    pub(super) key_value: usize,
    pub(super) head_dim: usize,
}

impl Heads {
    pub(super) fn read(file: &GgufFile, architecture: Architecture) -> Result<Self> {
        let source = Source { file, architecture };
        let query = source
            .per_layer("attention.head_count")?
            .ok_or_else(|| source.missing("attention.head_count"))?;
        let key_value = source
            .per_layer("attention.head_count_kv")?
            .unwrap_or(query);
        Ok(Self {
            query,
            key_value,
            head_dim: source.head_dim(query)?,
        })
    }
}

/// The number of layers, at most that of tensors.
pub(super) fn block_count(file: &GgufFile, architecture: Architecture) -> Result<usize> {
    let source = Source { file, architecture };
    let layers = source.require::<usize>("block_count")?;
    let tensors = file.tensors().len();
    if layers > tensors {
        let expected = format!("at most the number of tensors, {tensors}");
        return Err(source.invalid("block_count", expected, layers));
    }
    Ok(layers)
}

/// What `config.json` would say, in the form of transformers 5.
pub(super) fn hugging_face_config(file: &GgufFile, architecture: Architecture) -> Result<Value> {
    let source = Source { file, architecture };
    source.refuse_experts()?;
    let mut config = match architecture {
        Architecture::Gpt2 => gpt2(&source)?,
        _ => decoder(&source)?,
    };
    config.insert("vocab_size".into(), json!(source.vocab_size()?));
    config.insert(
        "tie_word_embeddings".into(),
        json!(file.tensor("output.weight").is_none()),
    );
    for (field, key) in [
        ("bos_token_id", "tokenizer.ggml.bos_token_id"),
        ("eos_token_id", "tokenizer.ggml.eos_token_id"),
        ("pad_token_id", "tokenizer.ggml.padding_token_id"),
    ] {
        if let Some(id) = file.metadata().get::<u32>(key)? {
            config.insert(field.into(), json!(id));
        }
    }
    Ok(Value::Object(config))
}

/// Metadata of one architecture, with its keys' prefix left out.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) file: &'a GgufFile,
    pub(super) architecture: Architecture,
}

impl<'a> Source<'a> {
    fn metadata(&self) -> &'a Metadata {
        self.file.metadata()
    }

    pub(super) fn get<T: FromValue<'a>>(&self, key: &str) -> Result<Option<T>> {
        Ok(self.metadata().get(&self.architecture.key(key))?)
    }

    pub(super) fn require<T: FromValue<'a>>(&self, key: &str) -> Result<T> {
        Ok(self.metadata().require(&self.architecture.key(key))?)
    }

    /// A number of the file as the decimal it was written from: 1e-5, not 9.999999747378752e-6.
    pub(super) fn decimal(&self, key: &str) -> Result<Option<f64>> {
        let value = self.get::<f64>(key)?;
        let single = matches!(
            self.metadata().value(&self.architecture.key(key)),
            Some(GgufValue::F32(_))
        );
        Ok(value.map(|value| if single { shortest(value) } else { value }))
    }

    pub(super) fn invalid(
        &self,
        key: &str,
        expected: impl Into<String>,
        got: impl std::fmt::Display,
    ) -> Error {
        self.metadata()
            .invalid(&self.architecture.key(key), expected, got)
            .into()
    }

    fn missing(&self, key: &str) -> Error {
        let file = self.file.path().to_owned();
        flametune_quant::Error::MissingKey {
            file,
            key: self.architecture.key(key),
        }
        .into()
    }

    /// A size that may be given once or for each layer, if it is the same for all of them.
    fn per_layer(&self, key: &str) -> Result<Option<usize>> {
        let full_key = self.architecture.key(key);
        let Some(GgufValue::Array(sizes)) = self.metadata().value(&full_key) else {
            return self.get(key);
        };
        let uniform = match sizes {
            Array::U32(sizes) => uniform(sizes.iter().map(|&size| size as usize)),
            Array::I32(sizes) => uniform(sizes.iter().filter_map(|&size| size.try_into().ok())),
            _ => None,
        };
        match uniform {
            Some(size) => Ok(Some(size)),
            None => Err(self.invalid(key, "the same for every layer", "several sizes")),
        }
    }

    /// The width of a head: stated, or an equal part of the hidden width.
    pub(super) fn head_dim(&self, n_heads: usize) -> Result<usize> {
        let head_dim = match self.get::<usize>("attention.key_length")? {
            Some(head_dim) => head_dim,
            None => {
                let hidden = self.require::<usize>("embedding_length")?;
                hidden
                    .checked_div(n_heads)
                    .filter(|part| part * n_heads == hidden)
                    .ok_or_else(|| {
                        let expected = format!("a divisor of embedding_length {hidden}");
                        self.invalid("attention.head_count", expected, n_heads)
                    })?
            }
        };
        match self.get::<usize>("attention.value_length")? {
            Some(value_length) if value_length != head_dim => Err(self.invalid(
                "attention.value_length",
                format!("equal to the width of keys, {head_dim}"),
                value_length,
            )),
            _ => Ok(head_dim),
        }
    }

    fn vocab_size(&self) -> Result<usize> {
        let embedding = self.file.tensor(EMBEDDING);
        embedding
            .and_then(|tensor| tensor.shape().first().copied())
            .ok_or_else(|| Error::MissingTensor {
                name: EMBEDDING.to_owned(),
                file: self.file.path().to_owned(),
            })
    }

    fn refuse_experts(&self) -> Result<()> {
        match self.get::<u32>("expert_count")? {
            None | Some(0) => Ok(()),
            Some(experts) => Err(Error::UnsupportedOption {
                field: self.architecture.key("expert_count"),
                value: experts.to_string(),
                hint: "only dense models are read from GGUF files".to_owned(),
            }),
        }
    }

    fn has(&self, tensor: &str) -> bool {
        self.file.tensor(tensor).is_some()
    }
}

fn uniform(mut sizes: impl Iterator<Item = usize>) -> Option<usize> {
    let first = sizes.next()?;
    sizes.all(|size| size == first).then_some(first)
}

/// The shortest decimal that is `value` in f32.
#[allow(
    clippy::cast_possible_truncation,
    reason = "the value was an f32 before"
)]
fn shortest(value: f64) -> f64 {
    (value as f32).to_string().parse().unwrap_or(value)
}

fn object(fields: Value) -> Map<String, Value> {
    match fields {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn gpt2(source: &Source<'_>) -> Result<Map<String, Value>> {
    let n_embd = source.require::<usize>("embedding_length")?;
    let n_inner = source
        .per_layer("feed_forward_length")?
        .filter(|&width| n_embd.checked_mul(4) != Some(width));
    Ok(object(json!({
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_embd": n_embd,
        "n_inner": n_inner,
        "n_layer": block_count(source.file, source.architecture)?,
        "n_head": source.require::<usize>("attention.head_count")?,
        "n_positions": source.require::<usize>("context_length")?,
        "layer_norm_epsilon": source.decimal("attention.layer_norm_epsilon")?.unwrap_or(1e-5),
        "activation_function": "gelu_new",
    })))
}

/// All but GPT-2.
fn decoder(source: &Source<'_>) -> Result<Map<String, Value>> {
    let heads = Heads::read(source.file, source.architecture)?;
    let intermediate_size = source
        .per_layer("feed_forward_length")?
        .ok_or_else(|| source.missing("feed_forward_length"))?;
    let rms_norm_eps = source
        .decimal("attention.layer_norm_rms_epsilon")?
        .ok_or_else(|| source.missing("attention.layer_norm_rms_epsilon"))?;
    let mut config = object(json!({
        "hidden_size": source.require::<usize>("embedding_length")?,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": block_count(source.file, source.architecture)?,
        "num_attention_heads": heads.query,
        "num_key_value_heads": heads.key_value,
        "head_dim": heads.head_dim,
        "max_position_embeddings": source.require::<usize>("context_length")?,
        "rms_norm_eps": rms_norm_eps,
        "rope_parameters": rope::parameters(source, heads.head_dim)?,
    }));
    config.extend(object(match source.architecture {
        Architecture::Gpt2 => Value::Null,
        Architecture::Llama => llama(source)?,
        Architecture::Qwen2 => json!({
            "model_type": "qwen2",
            "architectures": ["Qwen2ForCausalLM"],
            "hidden_act": "silu",
        }),
        Architecture::Qwen3 => json!({
            "model_type": "qwen3",
            "architectures": ["Qwen3ForCausalLM"],
            "hidden_act": "silu",
            "attention_bias": source.has("blk.0.attn_q.bias"),
        }),
        Architecture::Phi3 => phi3(source)?,
        Architecture::Gemma => json!({
            "model_type": "gemma",
            "architectures": ["GemmaForCausalLM"],
            "hidden_act": "gelu_pytorch_tanh",
        }),
        Architecture::Gemma2 => gemma2(source, heads)?,
        Architecture::Gemma3 => gemma3(source, heads)?,
    }));
    Ok(config)
}

/// Llama, or Mistral when attention has a window.
fn llama(source: &Source<'_>) -> Result<Value> {
    Ok(match source.get::<usize>("attention.sliding_window")? {
        Some(window) if window > 0 => json!({
            "model_type": "mistral",
            "architectures": ["MistralForCausalLM"],
            "hidden_act": "silu",
            "sliding_window": window,
        }),
        _ => json!({
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "hidden_act": "silu",
            "attention_bias": source.has("blk.0.attn_q.bias"),
            "mlp_bias": source.has("blk.0.ffn_up.bias"),
        }),
    })
}

fn phi3(source: &Source<'_>) -> Result<Value> {
    // Zero says that there is no window.
    let window = source
        .get::<usize>("attention.sliding_window")?
        .filter(|&window| window > 0);
    let mut config = json!({
        "model_type": "phi3",
        "architectures": ["Phi3ForCausalLM"],
        "hidden_act": "silu",
        "sliding_window": window,
    });
    if let Some(length) = source.get::<usize>("rope.scaling.original_context_length")? {
        config["original_max_position_embeddings"] = json!(length);
    }
    Ok(config)
}

fn gemma2(source: &Source<'_>, heads: Heads) -> Result<Value> {
    // What llama.cpp assumes of files that do not say.
    const WINDOW: usize = 4096;
    const PATTERN: usize = 2;
    const LAYERS_OF_27B: usize = 46;
    let softcap =
        |key: &str, default: f64| -> Result<f64> { Ok(source.decimal(key)?.unwrap_or(default)) };
    Ok(json!({
        "model_type": "gemma2",
        "architectures": ["Gemma2ForCausalLM"],
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": false,
        "attn_logit_softcapping": softcap("attn_logit_softcapping", 50.0)?,
        "final_logit_softcapping": softcap("final_logit_softcapping", 30.0)?,
        "sliding_window": source.get::<usize>("attention.sliding_window")?.unwrap_or(WINDOW),
        "layer_types": layer_types(source, PATTERN)?,
        "query_pre_attn_scalar": query_pre_attn_scalar(source, heads, LAYERS_OF_27B)?,
    }))
}

fn gemma3(source: &Source<'_>, heads: Heads) -> Result<Value> {
    const PATTERN: usize = 6;
    const LAYERS_OF_27B: usize = 62;
    let window = source
        .get::<usize>("attention.sliding_window")?
        .filter(|&window| window > 0);
    // Without a window every layer sees everything.
    let layer_types = match window {
        Some(_) => layer_types(source, PATTERN)?,
        None => vec![FULL; block_count(source.file, source.architecture)?],
    };
    Ok(json!({
        "model_type": "gemma3_text",
        "architectures": ["Gemma3ForCausalLM"],
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": false,
        "final_logit_softcapping": source.decimal("final_logit_softcapping")?,
        "sliding_window": window,
        "layer_types": layer_types,
        "query_pre_attn_scalar": query_pre_attn_scalar(source, heads, LAYERS_OF_27B)?,
    }))
}

/// The width of a head, but for the largest model of a generation, which files do not tell apart
/// except by its number of layers.
fn query_pre_attn_scalar(source: &Source<'_>, heads: Heads, layers_of_27b: usize) -> Result<usize> {
    if block_count(source.file, source.architecture)? != layers_of_27b {
        return Ok(heads.head_dim);
    }
    let hidden = source.require::<usize>("embedding_length")?;
    Ok(hidden.checked_div(heads.query).unwrap_or(heads.head_dim))
}

const SLIDING: &str = "sliding_attention";
const FULL: &str = "full_attention";

/// Which layers see a window only: all but the last of each `pattern`, unless the file says.
fn layer_types(source: &Source<'_>, pattern: usize) -> Result<Vec<&'static str>> {
    const KEY: &str = "attention.sliding_window_pattern";
    let layers = block_count(source.file, source.architecture)?;
    let of = |sliding| if sliding { SLIDING } else { FULL };
    let stated = source.file.metadata().value(&source.architecture.key(KEY));
    if let Some(GgufValue::Array(Array::Bool(sliding))) = stated {
        if sliding.len() != layers {
            return Err(source.invalid(
                KEY,
                format!("one for each of {layers} layers"),
                sliding.len(),
            ));
        }
        return Ok(sliding.iter().copied().map(of).collect());
    }
    let pattern = source.get::<usize>(KEY)?.unwrap_or(pattern);
    Ok((0..layers)
        .map(|layer| of(pattern == 0 || layer % pattern + 1 < pattern))
        .collect())
}
