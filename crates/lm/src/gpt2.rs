//! GPT-2: learned positions, LayerNorm before each half of a block, `Conv1D` projections.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor, activation};
use flametune_kernels::{AttentionMask, PagedScores, attention};
use flametune_peft::{
    AdapterEmbedding, AdapterLinear, AdapterNorm, AdapterPass, AdapterPrompt, AdapterSublayer,
    AdapterTable, Norm, PromptShape, Sublayer, TiedLinear,
};

use crate::batch::TokenBatch;
use crate::cache::KvCache;
use crate::config::ConfigFile;
use crate::decoder::{LayerMemory, PagedStep, Tap};
use crate::error::{Error, Result};
use crate::paged::{PagedInput, PagedKv, PagedRow};
use crate::virtual_tokens::{Entry, in_front, in_front_of_heads, tokens_only};
use crate::weights::Scope;

/// The configuration of GPT-2, under the names of its file.
#[derive(Debug, Clone, PartialEq)]
pub struct Gpt2Config {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Width inside the MLP.
    pub n_inner: usize,
    /// Layers.
    pub n_layer: usize,
    /// Heads.
    pub n_head: usize,
    /// Rows of the position table.
    pub n_positions: usize,
    /// Added to variances.
    pub layer_norm_epsilon: f64,
    /// Whether scores are divided by the layer's number as well.
    pub scale_attn_by_inverse_layer_idx: bool,
    /// Whether logits use the embedding's matrix.
    pub tie_word_embeddings: bool,
}

impl Gpt2Config {
    /// Reads a `config.json` whose `model_type` is `gpt2`.
    ///
    /// # Errors
    /// When a field is missing, out of range or contradicts another, and for options that are not
    /// implemented.
    pub fn read(file: &ConfigFile) -> Result<Self> {
        let n_embd = file.usize("n_embd")?;
        let n_head = file.usize("n_head")?;
        if !n_embd.is_multiple_of(n_head) {
            return Err(file.invalid(
                "n_head",
                format!("must divide n_embd {n_embd}, got {n_head}"),
            ));
        }
        match file.opt_str("activation_function")? {
            None | Some("gelu_new" | "gelu_pytorch_tanh") => {}
            Some(other) => {
                return Err(ConfigFile::unsupported(
                    "activation_function",
                    other,
                    "use gelu_new",
                ));
            }
        }
        if !file.bool_or("scale_attn_weights", true)? {
            return Err(ConfigFile::unsupported(
                "scale_attn_weights",
                "false",
                "scores are scaled",
            ));
        }
        let n_inner = match file.opt_usize("n_inner")? {
            Some(_) => file.usize("n_inner")?,
            None => 4 * n_embd,
        };
        Ok(Self {
            vocab_size: file.usize("vocab_size")?,
            n_embd,
            n_inner,
            n_layer: file.usize("n_layer")?,
            n_head,
            n_positions: file.usize_or("n_positions", 1024)?,
            layer_norm_epsilon: file.f64_or("layer_norm_epsilon", 1e-5)?,
            scale_attn_by_inverse_layer_idx: file
                .bool_or("scale_attn_by_inverse_layer_idx", false)?,
            tie_word_embeddings: file.bool_or("tie_word_embeddings", true)?,
        })
    }
}

/// GPT-2 with its head.
///
/// # Source
/// - Radford et al. 2019, Language Models are Unsupervised Multitask Learners, §2.3
/// - reference: transformers `models/gpt2/modeling_gpt2.py`; golden `fixtures/models/gpt2`
#[derive(Module, Debug)]
pub struct Gpt2Lm {
    /// The decoder.
    pub transformer: Gpt2,
    /// Logits of the next token; absent where the embedding's matrix serves for it.
    pub lm_head: Option<AdapterLinear>,
    /// The adapters of the head where the embedding's matrix serves for it.
    pub tied_head: Option<TiedLinear>,
}

/// GPT-2 without its head.
#[derive(Module, Debug)]
pub struct Gpt2 {
    /// The token embedding.
    pub wte: AdapterEmbedding,
    /// The position embedding.
    pub wpe: AdapterEmbedding,
    /// The layers.
    pub h: Vec<Gpt2Block>,
    /// The normalisation after the last layer.
    pub ln_f: AdapterNorm,
    /// The virtual tokens of adapters.
    pub prompt: AdapterPrompt,
    #[module(skip)]
    config: Arc<Gpt2Config>,
    #[module(skip)]
    pub(crate) adapters: AdapterTable,
}

/// One layer.
#[derive(Module, Debug)]
pub struct Gpt2Block {
    /// Before the attention.
    pub ln_1: AdapterNorm,
    /// The attention.
    pub attn: Gpt2Attention,
    /// Before the MLP.
    pub ln_2: AdapterNorm,
    /// The MLP.
    pub mlp: Gpt2Mlp,
    /// Adapters between the attention and the residual stream.
    pub attn_output: AdapterSublayer,
    /// Adapters between the MLP and the residual stream.
    pub mlp_output: AdapterSublayer,
}

/// Multi-head attention with query, key and value in one matrix.
#[derive(Module, Debug)]
pub struct Gpt2Attention {
    /// Query, key and value.
    pub c_attn: AdapterLinear,
    /// Back to the residual stream.
    pub c_proj: AdapterLinear,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    scale: f64,
}

/// `c_proj(gelu(c_fc(x)))`.
#[derive(Module, Debug)]
pub struct Gpt2Mlp {
    /// Into the MLP.
    pub c_fc: AdapterLinear,
    /// Back to the residual stream.
    pub c_proj: AdapterLinear,
}

/// Whether a tensor of this name is a `Conv1D` weight, stored as `[d_in, d_out]`.
pub(crate) fn is_conv1d(name: &str) -> bool {
    [".c_attn.weight", ".c_proj.weight", ".c_fc.weight"]
        .iter()
        .any(|end| name.ends_with(end))
}

/// Whether a tensor is one of the constant masks that old checkpoints carry.
pub(crate) fn is_constant(name: &str) -> bool {
    name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias")
}

impl Gpt2Lm {
    pub(crate) fn load(root: &Scope<'_>, file: &ConfigFile) -> Result<Self> {
        let config = Arc::new(Gpt2Config::read(file)?);
        // The first published checkpoints lack the prefix.
        let scope = if root.has("wte.weight") {
            root.clone()
        } else {
            root.at("transformer")
        };
        let transformer = Gpt2::load(&scope, &config)?;
        let lm_head = (!config.tie_word_embeddings)
            .then(|| {
                root.at("lm_head")
                    .linear(config.n_embd, config.vocab_size, false)
            })
            .transpose()?;
        Ok(Self {
            transformer,
            lm_head,
            tied_head: config.tie_word_embeddings.then(TiedLinear::new),
        })
    }

    /// Logits of the next token for each hidden state.
    ///
    /// # Shapes
    /// - `hidden`: `[batch, seq, d_model]`, returns `[batch, seq, vocab]`
    pub fn logits(&self, hidden: Tensor<3>, pass: &AdapterPass) -> Tensor<3> {
        match (&self.lm_head, &self.tied_head) {
            (Some(head), _) => head.forward(hidden, pass),
            (None, Some(head)) => head.forward(hidden, &self.transformer.wte, pass),
            (None, None) => TiedLinear::new().forward(hidden, &self.transformer.wte, pass),
        }
    }
}

impl Gpt2 {
    fn load(scope: &Scope<'_>, config: &Arc<Gpt2Config>) -> Result<Self> {
        let (width, inner) = (config.n_embd, config.n_inner);
        let norm = Norm::Layer {
            eps: config.layer_norm_epsilon,
        };
        let wte = scope
            .at("wte")
            .weight("weight", [config.vocab_size, width])?;
        let wpe = scope
            .at("wpe")
            .table("weight", [config.n_positions, width])?;
        let block = |index: usize| -> Result<Gpt2Block> {
            let scope = scope.at("h").at(index);
            let (attn, mlp) = (scope.at("attn"), scope.at("mlp"));
            Ok(Gpt2Block {
                ln_1: scope.at("ln_1").norm(norm, width)?,
                attn: Gpt2Attention {
                    c_attn: attn.at("c_attn").conv1d(width, 3 * width)?,
                    c_proj: attn.at("c_proj").conv1d(width, width)?,
                    heads: config.n_head,
                    scale: score_scale(config, index),
                },
                ln_2: scope.at("ln_2").norm(norm, width)?,
                mlp: Gpt2Mlp {
                    c_fc: mlp.at("c_fc").conv1d(width, inner)?,
                    c_proj: mlp.at("c_proj").conv1d(inner, width)?,
                },
                attn_output: AdapterSublayer::new(Sublayer::Attention, width),
                mlp_output: AdapterSublayer::new(Sublayer::FeedForward, width),
            })
        };
        let mut wte = AdapterEmbedding::new(wte);
        wte.head_precision = scope.precision();
        Ok(Self {
            wte,
            wpe: AdapterEmbedding::new(wpe),
            h: (0..config.n_layer).map(block).collect::<Result<_>>()?,
            ln_f: scope.at("ln_f").norm(norm, width)?,
            prompt: AdapterPrompt::new(PromptShape {
                num_layers: config.n_layer,
                hidden_size: width,
                num_attention_heads: config.n_head,
                num_key_value_heads: config.n_head,
                head_dim: width / config.n_head,
                embed_scale: 1.0,
            }),
            config: Arc::clone(config),
            adapters: AdapterTable::default(),
        })
    }

    /// The configuration.
    pub fn config(&self) -> &Gpt2Config {
        &self.config
    }

    /// The device of the parameters.
    pub fn device(&self) -> Device {
        self.wte.weight.device()
    }

    /// The dtype of hidden states.
    pub fn compute_dtype(&self) -> DType {
        self.ln_f.weight.dtype()
    }

    /// An empty cache for `batch` rows of up to `capacity` tokens each.
    pub fn new_cache(&self, batch: usize, capacity: usize) -> KvCache {
        KvCache::new(self.h.len(), batch, capacity)
    }

    /// Room for `pages` pages of `page_len` tokens each.
    pub fn new_paged_kv(&self, pages: usize, page_len: usize) -> PagedKv {
        let heads = [self.config.n_head, self.config.n_embd / self.config.n_head];
        let (device, dtype) = (self.device(), self.compute_dtype());
        PagedKv::new(self.h.len(), [pages, page_len], heads, &device, dtype)
    }

    /// Runs every layer and the final normalisation over the new tokens of some sequences.
    pub(crate) fn forward_paged(
        &self,
        rows: &[PagedRow<'_>],
        kv: &mut PagedKv,
        pass: &AdapterPass,
        alone: bool,
    ) -> Result<Tensor<3>> {
        let input = PagedInput::new(rows, kv, pass, alone)?;
        input.check_vocab(self.config.vocab_size)?;
        input.check_vectors(&self.prompt)?;
        input.pass.check(&self.adapters, input.len())?;
        check_positions(&input.positions, self.config.n_positions)?;
        let (slots, dtype) = (input.len(), self.compute_dtype());
        let embedded = input.embed(&self.prompt, dtype, 1.0, |ids, pass| {
            self.wte.forward(ids, ids.len(), dtype, pass)
        });
        let pass = &input.pass;
        let mut hidden = embedded + self.wpe.forward(&input.positions, slots, dtype, pass);
        let step = PagedStep(input.plan);
        for (index, block) in self.h.iter().enumerate() {
            let memory = LayerMemory::Paged(index, &mut *kv, &step);
            hidden = block.forward(&hidden, None, (None, Some(memory)), pass);
        }
        Ok(self.ln_f.forward(hidden, pass))
    }

    /// Runs every layer and the final normalisation; see [`Tap`].
    ///
    /// # Errors
    /// When an id is outside the vocabulary, a position outside the table, the cache has no room,
    /// or the model lacks an adapter.
    pub fn forward(
        &self,
        batch: &TokenBatch,
        mut cache: Option<&mut KvCache>,
        pass: &AdapterPass,
        tap: Tap<'_>,
    ) -> Result<Tensor<3>> {
        batch.check_vocab(self.config.vocab_size)?;
        pass.check(&self.adapters, batch.batch())?;
        let dtype = self.compute_dtype();
        let entry = Entry::new(&self.prompt, batch, cache.as_deref_mut(), pass, dtype)?;
        let (positions, mask) = (&entry.positions, &entry.mask);
        check_positions(positions, self.config.n_positions)?;
        let (ids, rows) = (batch.input_ids(), batch.batch());
        let embedded = in_front(entry.input, self.wte.forward(ids, rows, dtype, pass));
        let mut hidden = tap(0, embedded + self.wpe.forward(positions, rows, dtype, pass));
        for (index, block) in self.h.iter().enumerate() {
            let memory = cache
                .as_deref_mut()
                .map(|cache| LayerMemory::Rows(index, cache));
            let prefix = entry.prefix.as_ref().map(|prefix| prefix.layer(index));
            let output = block.forward(&hidden, Some(mask), (prefix, memory), pass);
            hidden = tap(index + 1, output);
        }
        Ok(self.ln_f.forward(tokens_only(hidden, batch.seq()), pass))
    }
}

impl Gpt2Block {
    /// One layer: `x + attention(x)`, then `x + mlp(x)`.
    fn forward(
        &self,
        hidden: &Tensor<3>,
        mask: Option<&AttentionMask>,
        memory: (Option<KeysValues>, Option<LayerMemory<'_>>),
        pass: &AdapterPass,
    ) -> Tensor<3> {
        let normed = self.ln_1.forward(hidden.clone(), pass);
        let attended = self.attn.forward(normed.clone(), mask, memory, pass);
        let hidden = hidden.clone() + self.attn_output.forward(hidden, &normed, attended, pass);
        let normed = self.ln_2.forward(hidden.clone(), pass);
        let inner = activation::gelu_approximate(self.mlp.c_fc.forward(normed.clone(), pass));
        let fed = self.mlp.c_proj.forward(inner, pass);
        hidden.clone() + self.mlp_output.forward(&hidden, &normed, fed, pass)
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "widths and layer numbers are small"
)]
fn score_scale(config: &Gpt2Config, layer: usize) -> f64 {
    let scale = 1.0 / ((config.n_embd / config.n_head) as f64).sqrt();
    if config.scale_attn_by_inverse_layer_idx {
        scale / (layer + 1) as f64
    } else {
        scale
    }
}

/// Checks positions against a table of learned ones.
pub(crate) fn check_positions(positions: &[u32], limit: usize) -> Result<()> {
    let requested = positions
        .iter()
        .max()
        .map_or(0, |&position| position as usize + 1);
    if requested > limit {
        return Err(Error::ContextOverflow { requested, limit });
    }
    Ok(())
}

/// Keys and values, `[batch, heads, tokens, head_dim]`.
type KeysValues = (Tensor<4>, Tensor<4>);

impl Gpt2Attention {
    fn forward(
        &self,
        x: Tensor<3>,
        mask: Option<&AttentionMask>,
        (prefix, memory): (Option<KeysValues>, Option<LayerMemory<'_>>),
        pass: &AdapterPass,
    ) -> Tensor<3> {
        let [batch, seq, width] = x.dims();
        let qkv = self.c_attn.forward(x, pass);
        let part = |index: usize| {
            let part = qkv.clone().narrow(2, index * width, width);
            part.reshape([batch, seq, self.heads, width / self.heads])
                .swap_dims(1, 2)
        };
        let (q, mut k, mut v) = (part(0), part(1), part(2));
        if let Some((keys, values)) = prefix {
            (k, v) = (in_front_of_heads(keys, k), in_front_of_heads(values, v));
        }
        let heads = match memory {
            Some(LayerMemory::Paged(index, kv, step)) => {
                let scores = PagedScores {
                    scale: self.scale,
                    softcap: None,
                    window: None,
                    alone: false,
                };
                kv.attend(index, [q, k, v], &step.0, scores)
            }
            memory => {
                if let Some(LayerMemory::Rows(index, cache)) = memory {
                    (k, v) = cache.update(index, k, v);
                }
                let whole = AttentionMask::causal(0);
                attention(q, k, v, mask.unwrap_or(&whole), self.scale, None)
            }
        };
        self.c_proj
            .forward(heads.swap_dims(1, 2).reshape([batch, seq, width]), pass)
    }
}
