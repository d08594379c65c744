//! The Llama family: one decoder, parametrised by [`DecoderConfig`].
//!
//! ```text
//! input_ids ─ embed_tokens ─┬─ layer 0 ─ … ─ layer n-1 ─ norm ─ lm_head ─ logits
//!                           │     │
//!        rope tables, masks ┴─────┘ (computed once for all layers)
//! ```

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor};
use flametune_kernels::{AttentionMask, PagedScores, attention, rope};
use flametune_peft::{
    AdapterEmbedding, AdapterLinear, AdapterNorm, AdapterPass, AdapterPrompt, AdapterSublayer,
    AdapterTable, PrefixKeysValues, PromptShape, Sublayer,
};

use crate::batch::TokenBatch;
use crate::cache::KvCache;
use crate::config::{BlockStyle, DecoderConfig, LayerConfig, QkNorm};
use crate::error::Result;
use crate::feed_forward::FeedForward;
use crate::paged::{PagedInput, PagedKv, PagedPlan, PagedRow};
use crate::rope::RopeTable;
use crate::virtual_tokens::{Entry, in_front, in_front_of_heads, tokens_only};
use crate::weights::Scope;

/// The decoder without its head: token ids in, hidden states out.
#[derive(Module, Debug)]
pub struct Decoder {
    /// The token embedding.
    pub embed_tokens: AdapterEmbedding,
    /// The layers.
    pub layers: Vec<DecoderLayer>,
    /// The normalisation after the last layer.
    pub norm: AdapterNorm,
    /// The virtual tokens of adapters.
    pub prompt: AdapterPrompt,
    #[module(skip)]
    config: Arc<DecoderConfig>,
    #[module(skip)]
    pub(crate) adapters: AdapterTable,
}

/// One layer: attention and a gated MLP around a residual stream.
#[derive(Module, Debug)]
pub struct DecoderLayer {
    /// The attention.
    pub self_attn: Attention,
    /// The MLP, or the experts in its place.
    pub feed_forward: FeedForward,
    /// Adapters between the attention and the residual stream.
    pub self_attn_output: AdapterSublayer,
    /// Adapters between the MLP and the residual stream.
    pub feed_forward_output: AdapterSublayer,
    /// Before the attention.
    pub input_layernorm: Option<AdapterNorm>,
    /// Before the MLP ([`BlockStyle::PreNorm`]), or after the attention.
    pub post_attention_layernorm: Option<AdapterNorm>,
    /// Before the MLP, in sandwich blocks.
    pub pre_feedforward_layernorm: Option<AdapterNorm>,
    /// After the MLP, in sandwich and post-norm blocks.
    pub post_feedforward_layernorm: Option<AdapterNorm>,
    #[module(skip)]
    config: Arc<DecoderConfig>,
    #[module(skip)]
    layer: LayerConfig,
    #[module(skip)]
    index: usize,
}

/// Grouped-query attention with rotary positions.
#[derive(Module, Debug)]
pub struct Attention {
    /// Query, key and value.
    pub projections: Projections,
    /// From all heads back to the residual stream.
    pub o_proj: AdapterLinear,
    /// Normalises queries.
    pub q_norm: Option<AdapterNorm>,
    /// Normalises keys.
    pub k_norm: Option<AdapterNorm>,
    #[module(skip)]
    config: Arc<DecoderConfig>,
}

/// How query, key and value are stored.
#[expect(
    clippy::large_enum_variant,
    reason = "one a layer, and nothing beside its weights"
)]
#[derive(Module, Debug)]
pub enum Projections {
    /// A matrix each.
    Separate(SeparateProjections),
    /// One matrix, the three stacked (Phi 3).
    Fused(FusedProjections),
}

/// Query, key and value as a matrix each.
#[derive(Module, Debug)]
pub struct SeparateProjections {
    /// Query.
    pub q_proj: AdapterLinear,
    /// Key.
    pub k_proj: AdapterLinear,
    /// Value.
    pub v_proj: AdapterLinear,
}

/// Query, key and value as one matrix.
#[derive(Module, Debug)]
pub struct FusedProjections {
    /// The three, stacked in this order.
    pub qkv_proj: AdapterLinear,
}

/// What all layers of one forward pass share: rotation tables, who sees whom, and the adapters.
#[derive(Debug)]
pub struct StepContext {
    ropes: Vec<RopeTable>,
    mask: AttentionMask,
    pass: AdapterPass,
    /// Vectors in front of the embeddings.
    input: Option<Tensor<3>>,
    /// Keys and values in front of those of every layer.
    prefix: Option<PrefixKeysValues>,
}

impl StepContext {
    /// The adapters of the pass.
    pub fn pass(&self) -> &AdapterPass {
        &self.pass
    }

    fn mask(&self, window: Option<usize>) -> AttentionMask {
        match window {
            Some(window) => self.mask.clone().with_window(window),
            None => self.mask.clone(),
        }
    }
}

/// Where a layer keeps the keys and values of tokens already seen.
#[derive(Debug)]
pub enum LayerMemory<'a> {
    /// Rows that grow together; the layer's number in them.
    Rows(usize, &'a mut KvCache),
    /// Sequences in pages; the layer's number in them.
    Paged(usize, &'a mut PagedKv, &'a PagedStep<'a>),
}

/// The sequences of a step over a paged cache.
#[derive(Debug)]
pub struct PagedStep<'a>(pub(crate) PagedPlan<'a>);

/// Sees the embeddings, numbered 0, and the output of each layer, from 1; what it returns goes on.
pub type Tap<'a> = &'a mut dyn FnMut(usize, Tensor<3>) -> Tensor<3>;

impl Decoder {
    pub(crate) fn load(scope: &Scope<'_>, config: &Arc<DecoderConfig>) -> Result<Self> {
        let shape = [config.vocab_size, config.hidden_size];
        let mut embed_tokens =
            AdapterEmbedding::new(scope.at("embed_tokens").weight("weight", shape)?);
        embed_tokens.head_precision = scope.precision();
        let layers = config
            .layers
            .iter()
            .enumerate()
            .map(|(index, &layer)| {
                DecoderLayer::load(&scope.at("layers").at(index), config, (index, layer))
            })
            .collect::<Result<_>>()?;
        let norm = scope.at("norm").norm(config.norm, config.hidden_size)?;
        Ok(Self {
            embed_tokens,
            layers,
            norm,
            prompt: AdapterPrompt::new(prompt_shape(config)),
            config: Arc::clone(config),
            adapters: AdapterTable::default(),
        })
    }

    /// The configuration.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// The device of the parameters.
    pub fn device(&self) -> Device {
        self.embed_tokens.weight.device()
    }

    /// The dtype of hidden states.
    pub fn compute_dtype(&self) -> DType {
        self.norm.weight.dtype()
    }

    /// An empty cache for `batch` rows of up to `capacity` tokens each.
    pub fn new_cache(&self, batch: usize, capacity: usize) -> KvCache {
        KvCache::new(self.layers.len(), batch, capacity)
    }

    /// Takes `batch` in: checks its ids and the adapters, and computes what all layers share.
    ///
    /// # Errors
    /// When an id is outside the vocabulary, the cache has no room, or the model lacks an adapter.
    pub fn prepare(
        &self,
        batch: &TokenBatch,
        cache: Option<&mut KvCache>,
        pass: &AdapterPass,
    ) -> Result<StepContext> {
        batch.check_vocab(self.config.vocab_size)?;
        pass.check(&self.adapters, batch.batch())?;
        let (device, dtype) = (self.device(), self.compute_dtype());
        let Entry {
            mut positions,
            mask,
            input,
            prefix,
        } = Entry::new(&self.prompt, batch, cache, pass, dtype)?;
        // Rows with the same positions share one row of the tables.
        let mut rows = batch.batch();
        let width = positions.len() / rows;
        if positions
            .chunks(width)
            .all(|row| row == &positions[..width])
        {
            positions.truncate(width);
            rows = 1;
        }
        let ropes = self
            .config
            .ropes
            .iter()
            .map(|rope| RopeTable::new(rope, &positions, rows, &device, dtype))
            .collect();
        Ok(StepContext {
            ropes,
            mask,
            pass: pass.clone(),
            input,
            prefix,
        })
    }

    /// What enters the first layer of a sequence that begins with `batch`: the vectors of virtual
    /// tokens, if the pass has some, and the embeddings.
    ///
    /// # Shapes
    /// - returns `[batch, virtual + seq, d_model]`
    pub fn embed(&self, batch: &TokenBatch, pass: &AdapterPass) -> Tensor<3> {
        let input = self.prompt.input(pass, batch.batch(), self.compute_dtype());
        self.embed_behind(input, batch, pass)
    }

    fn embed_behind(
        &self,
        input: Option<Tensor<3>>,
        batch: &TokenBatch,
        pass: &AdapterPass,
    ) -> Tensor<3> {
        let (ids, dtype) = (batch.input_ids(), self.compute_dtype());
        let hidden = self.embed_tokens.forward(ids, batch.batch(), dtype, pass);
        let factor = self.config.embedding_multiplier;
        if self.config.multiplies_prompts {
            scale(in_front(input, hidden), factor)
        } else {
            in_front(input, scale(hidden, factor))
        }
    }

    /// Runs every layer and the final normalisation; see [`Tap`].
    ///
    /// # Shapes
    /// - returns `[batch, seq, d_model]`; the tap sees the states of virtual tokens in front
    ///
    /// # Errors
    /// Those of [`prepare`](Self::prepare).
    pub fn forward(
        &self,
        batch: &TokenBatch,
        mut cache: Option<&mut KvCache>,
        pass: &AdapterPass,
        tap: Tap<'_>,
    ) -> Result<Tensor<3>> {
        let context = self.prepare(batch, cache.as_deref_mut(), pass)?;
        let input = context.input.clone();
        let mut hidden = tap(0, self.embed_behind(input, batch, pass));
        for (index, layer) in self.layers.iter().enumerate() {
            let memory = cache
                .as_deref_mut()
                .map(|cache| LayerMemory::Rows(index, cache));
            hidden = tap(index + 1, layer.forward(hidden, &context, memory));
        }
        Ok(self.norm.forward(tokens_only(hidden, batch.seq()), pass))
    }

    /// Room for `pages` pages of `page_len` tokens each.
    pub fn new_paged_kv(&self, pages: usize, page_len: usize) -> PagedKv {
        let heads = [self.config.num_key_value_heads, self.config.head_dim];
        let (device, dtype) = (self.device(), self.compute_dtype());
        PagedKv::new(self.layers.len(), [pages, page_len], heads, &device, dtype)
    }

    /// Whether the keys of a token depend on the length of its text.
    pub(crate) fn rotates_by_length(&self) -> bool {
        use crate::config::RopeScaling::{Dynamic, LongRope};
        let by_length = |rope: &crate::config::RopeConfig| {
            matches!(rope.scaling, Dynamic { .. } | LongRope { .. })
        };
        self.config.ropes.iter().any(by_length)
    }

    /// Whether the layers have experts.
    pub(crate) fn routes_tokens(&self) -> bool {
        self.config.moe.is_some()
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
        let (device, dtype) = (self.device(), self.compute_dtype());
        let table =
            |rope| RopeTable::of_sequences(rope, &input.positions, &input.lengths, &device, dtype);
        let context = StepContext {
            ropes: self.config.ropes.iter().map(table).collect(),
            mask: AttentionMask::causal(0),
            pass: input.pass.clone(),
            input: None,
            prefix: None,
        };
        let factor = self.config.embedding_multiplier;
        let of_vectors = match self.config.multiplies_prompts {
            true => factor,
            false => 1.0,
        };
        let mut hidden = input.embed(&self.prompt, dtype, of_vectors, |ids, pass| {
            let hidden = self.embed_tokens.forward(ids, ids.len(), dtype, pass);
            scale(hidden, factor)
        });
        let step = PagedStep(input.plan);
        for (index, layer) in self.layers.iter().enumerate() {
            let memory = LayerMemory::Paged(index, &mut *kv, &step);
            hidden = layer.forward(hidden, &context, Some(memory));
        }
        Ok(self.norm.forward(hidden, &context.pass))
    }
}

/// What virtual tokens of a decoder must fit.
fn prompt_shape(config: &DecoderConfig) -> PromptShape {
    PromptShape {
        num_layers: config.num_hidden_layers(),
        hidden_size: config.hidden_size,
        num_attention_heads: config.num_attention_heads,
        num_key_value_heads: config.num_key_value_heads,
        head_dim: config.head_dim,
        embed_scale: match config.multiplies_prompts {
            true => 1.0,
            false => config.embedding_multiplier,
        },
    }
}

impl DecoderLayer {
    fn load(
        scope: &Scope<'_>,
        config: &Arc<DecoderConfig>,
        (index, layer): (usize, LayerConfig),
    ) -> Result<Self> {
        use BlockStyle::{Parallel, PostNorm, PreNorm, Sandwich};
        let norm = |name: &str, styles: &[BlockStyle]| {
            let has = styles.contains(&config.block);
            has.then(|| scope.at(name).norm(config.norm, config.hidden_size))
                .transpose()
        };
        Ok(Self {
            self_attn: Attention::load(&scope.at("self_attn"), config)?,
            feed_forward: FeedForward::load(scope, config)?,
            self_attn_output: AdapterSublayer::new(Sublayer::Attention, config.hidden_size),
            feed_forward_output: AdapterSublayer::new(Sublayer::FeedForward, config.hidden_size),
            input_layernorm: norm("input_layernorm", &[PreNorm, Sandwich, Parallel])?,
            post_attention_layernorm: norm(
                "post_attention_layernorm",
                &[PreNorm, Sandwich, PostNorm],
            )?,
            pre_feedforward_layernorm: norm("pre_feedforward_layernorm", &[Sandwich])?,
            post_feedforward_layernorm: norm("post_feedforward_layernorm", &[Sandwich, PostNorm])?,
            config: Arc::clone(config),
            layer,
            index,
        })
    }

    /// One layer: `x + attention(x)`, then `x + mlp(x)`, normalised as [`BlockStyle`] says.
    ///
    /// # Shapes
    /// - `hidden`: `[batch, seq, d_model]`, returned alike
    pub fn forward(
        &self,
        hidden: Tensor<3>,
        context: &StepContext,
        memory: Option<LayerMemory<'_>>,
    ) -> Tensor<3> {
        let style = self.config.block;
        let add = |residual: Tensor<3>, block: Tensor<3>| {
            residual + scale(block, self.config.residual_multiplier)
        };
        let (after_attention, before_mlp) = match style {
            BlockStyle::PreNorm => (&None, &self.post_attention_layernorm),
            _ => (
                &self.post_attention_layernorm,
                &self.pre_feedforward_layernorm,
            ),
        };
        let normalised = |norm: &Option<AdapterNorm>, x: Tensor<3>| match norm {
            Some(norm) => norm.forward(x, &context.pass),
            None => x,
        };
        let normed = normalised(&self.input_layernorm, hidden.clone());
        let shared = (style == BlockStyle::Parallel).then(|| normed.clone());
        let pass = &context.pass;
        let layer = (self.index, self.layer);
        let attended = self
            .self_attn
            .forward(normed.clone(), context, layer, memory);
        let attended = normalised(after_attention, attended);
        let attended = self
            .self_attn_output
            .forward(&hidden, &normed, attended, pass);
        let hidden = add(hidden, attended);
        let normed = shared.unwrap_or_else(|| normalised(before_mlp, hidden.clone()));
        let fed = self.feed_forward.forward(normed.clone(), pass);
        let fed = normalised(&self.post_feedforward_layernorm, fed);
        let fed = self
            .feed_forward_output
            .forward(&hidden, &normed, fed, pass);
        add(hidden, fed)
    }
}

/// Multiplies, and leaves the tensor alone when the factor is one.
pub(crate) fn scale<const D: usize>(x: Tensor<D>, factor: f64) -> Tensor<D> {
    if factor == 1.0 { x } else { x * factor }
}

impl Attention {
    fn load(scope: &Scope<'_>, config: &Arc<DecoderConfig>) -> Result<Self> {
        let hidden = config.hidden_size;
        let q_width = config.num_attention_heads * config.head_dim;
        let kv_width = config.num_key_value_heads * config.head_dim;
        let linear = |name: &str, d_out| scope.at(name).linear(hidden, d_out, config.qkv_bias);
        let projections = if config.fused_projections {
            let qkv_proj = linear("qkv_proj", q_width + 2 * kv_width)?;
            Projections::Fused(FusedProjections { qkv_proj })
        } else {
            Projections::Separate(SeparateProjections {
                q_proj: linear("q_proj", q_width)?,
                k_proj: linear("k_proj", kv_width)?,
                v_proj: linear("v_proj", kv_width)?,
            })
        };
        let norm = |name: &str, full_width| {
            let width = match config.qk_norm {
                QkNorm::None => return Ok(None),
                QkNorm::PerHead => config.head_dim,
                QkNorm::Full => full_width,
            };
            scope.at(name).norm(config.norm, width).map(Some)
        };
        Ok(Self {
            projections,
            o_proj: scope.at("o_proj").linear(q_width, hidden, config.o_bias)?,
            q_norm: norm("q_norm", q_width)?,
            k_norm: norm("k_norm", kv_width)?,
            config: Arc::clone(config),
        })
    }

    /// Attention of the new tokens to themselves and to those in the cache.
    ///
    /// # Shapes
    /// - `hidden`: `[batch, seq, d_model]`, returned alike
    fn forward(
        &self,
        hidden: Tensor<3>,
        context: &StepContext,
        (index, layer): (usize, LayerConfig),
        memory: Option<LayerMemory<'_>>,
    ) -> Tensor<3> {
        let config = &self.config;
        let [batch, seq, _] = hidden.dims();
        let pass = &context.pass;
        let (q, k, v) = self.project(hidden, pass);
        let mut q = self.heads(q, config.num_attention_heads, &self.q_norm, pass);
        let mut k = self.heads(k, config.num_key_value_heads, &self.k_norm, pass);
        let mut v = self.heads(v, config.num_key_value_heads, &None, pass);
        if let Some(table) = layer.rope.and_then(|index| context.ropes.get(index)) {
            q = rope(q, table.cos.clone(), table.sin.clone());
            k = rope(k, table.cos.clone(), table.sin.clone());
        }
        if let Some(prefix) = &context.prefix {
            let (keys, values) = prefix.layer(index);
            (k, v) = (in_front_of_heads(keys, k), in_front_of_heads(values, v));
        }
        let (multiplier, softcap) = (config.attention_multiplier, config.attn_logit_softcapping);
        let heads = match memory {
            Some(LayerMemory::Paged(index, kv, step)) => {
                let scores = PagedScores {
                    scale: multiplier,
                    softcap,
                    window: layer.sliding_window,
                    alone: false,
                };
                kv.attend(index, [q, k, v], &step.0, scores)
            }
            memory => {
                if let Some(LayerMemory::Rows(index, cache)) = memory {
                    (k, v) = cache.update(index, k, v);
                }
                let mask = context.mask(layer.sliding_window);
                attention(q, k, v, &mask, multiplier, softcap)
            }
        };
        let width = config.num_attention_heads * config.head_dim;
        self.o_proj
            .forward(heads.swap_dims(1, 2).reshape([batch, seq, width]), pass)
    }

    fn project(&self, hidden: Tensor<3>, pass: &AdapterPass) -> (Tensor<3>, Tensor<3>, Tensor<3>) {
        match &self.projections {
            Projections::Separate(p) => (
                p.q_proj.forward(hidden.clone(), pass),
                p.k_proj.forward(hidden.clone(), pass),
                p.v_proj.forward(hidden, pass),
            ),
            Projections::Fused(p) => {
                let qkv = p.qkv_proj.forward(hidden, pass);
                let q_width = self.config.num_attention_heads * self.config.head_dim;
                let kv_width = self.config.num_key_value_heads * self.config.head_dim;
                (
                    qkv.clone().narrow(2, 0, q_width),
                    qkv.clone().narrow(2, q_width, kv_width),
                    qkv.narrow(2, q_width + kv_width, kv_width),
                )
            }
        }
    }

    /// Splits `[batch, seq, heads · head_dim]` into `[batch, heads, seq, head_dim]`, normalised.
    fn heads(
        &self,
        x: Tensor<3>,
        heads: usize,
        norm: &Option<AdapterNorm>,
        pass: &AdapterPass,
    ) -> Tensor<4> {
        let [batch, seq, _] = x.dims();
        let split = |x: Tensor<3>| x.reshape([batch, seq, heads, self.config.head_dim]);
        let x = match (norm, self.config.qk_norm) {
            (Some(norm), QkNorm::Full) => split(norm.forward(x, pass)),
            (Some(norm), _) => norm.forward(split(x), pass),
            (None, _) => split(x),
        };
        x.swap_dims(1, 2)
    }
}
