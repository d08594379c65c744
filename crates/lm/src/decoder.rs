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
use flametune_kernels::{AttentionMask, attention, rope};
use flametune_peft::{AdapterEmbedding, AdapterLinear, AdapterNorm, AdapterPass, AdapterTable};

use crate::batch::TokenBatch;
use crate::cache::{KvCache, Slots};
use crate::config::{BlockStyle, DecoderConfig, LayerConfig, QkNorm};
use crate::error::Result;
use crate::feed_forward::FeedForward;
use crate::rope::RopeTable;
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

/// Sees the embeddings, numbered 0, and the output of each layer, from 1; what it returns goes on.
pub type Tap<'a> = &'a mut dyn FnMut(usize, Tensor<3>) -> Tensor<3>;

/// The causal mask of `new` tokens whose slots are the last of `slots`.
pub(crate) fn causal_mask(slots: &Slots, new: usize) -> AttentionMask {
    let mask = AttentionMask::causal(slots.len() - new);
    let plain = slots.segments.iter().flatten().all(|&segment| segment == 1);
    if plain {
        mask
    } else {
        mask.with_segments(slots.segments.as_slice())
    }
}

impl Decoder {
    pub(crate) fn load(scope: &Scope<'_>, config: &Arc<DecoderConfig>) -> Result<Self> {
        let shape = [config.vocab_size, config.hidden_size];
        let embed_tokens = AdapterEmbedding::new(scope.at("embed_tokens").weight("weight", shape)?);
        let layers = config
            .layers
            .iter()
            .enumerate()
            .map(|(index, &layer)| DecoderLayer::load(&scope.at("layers").at(index), config, layer))
            .collect::<Result<_>>()?;
        let norm = scope.at("norm").norm(config.norm, config.hidden_size)?;
        Ok(Self {
            embed_tokens,
            layers,
            norm,
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
        let (mut positions, mask) = match cache {
            Some(cache) => {
                let positions = cache.extend(batch)?;
                (positions, causal_mask(cache.slots(), batch.seq()))
            }
            None => {
                let mut slots = Slots::new(batch.batch());
                let positions = slots.extend(batch);
                (positions, causal_mask(&slots, batch.seq()))
            }
        };
        // Rows with the same positions share one row of the tables.
        let mut rows = batch.batch();
        if positions
            .chunks(batch.seq())
            .all(|row| row == &positions[..batch.seq()])
        {
            positions.truncate(batch.seq());
            rows = 1;
        }
        let (device, dtype) = (self.device(), self.compute_dtype());
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
        })
    }

    /// The embeddings that enter the first layer.
    ///
    /// # Shapes
    /// - returns `[batch, seq, d_model]`
    pub fn embed(&self, batch: &TokenBatch, pass: &AdapterPass) -> Tensor<3> {
        let (ids, dtype) = (batch.input_ids(), self.compute_dtype());
        let hidden = self.embed_tokens.forward(ids, batch.batch(), dtype, pass);
        scale(hidden, self.config.embedding_multiplier)
    }

    /// Runs every layer and the final normalisation; see [`Tap`].
    ///
    /// # Shapes
    /// - returns `[batch, seq, d_model]`
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
        let mut hidden = tap(0, self.embed(batch, pass));
        for (index, layer) in self.layers.iter().enumerate() {
            let cache = cache.as_deref_mut().map(|cache| (index, cache));
            hidden = tap(index + 1, layer.forward(hidden, &context, cache));
        }
        Ok(self.norm.forward(hidden, pass))
    }
}

impl DecoderLayer {
    fn load(scope: &Scope<'_>, config: &Arc<DecoderConfig>, layer: LayerConfig) -> Result<Self> {
        use BlockStyle::{Parallel, PostNorm, PreNorm, Sandwich};
        let norm = |name: &str, styles: &[BlockStyle]| {
            let has = styles.contains(&config.block);
            has.then(|| scope.at(name).norm(config.norm, config.hidden_size))
                .transpose()
        };
        Ok(Self {
            self_attn: Attention::load(&scope.at("self_attn"), config)?,
            feed_forward: FeedForward::load(scope, config)?,
            input_layernorm: norm("input_layernorm", &[PreNorm, Sandwich, Parallel])?,
            post_attention_layernorm: norm(
                "post_attention_layernorm",
                &[PreNorm, Sandwich, PostNorm],
            )?,
            pre_feedforward_layernorm: norm("pre_feedforward_layernorm", &[Sandwich])?,
            post_feedforward_layernorm: norm("post_feedforward_layernorm", &[Sandwich, PostNorm])?,
            config: Arc::clone(config),
            layer,
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
        cache: Option<(usize, &mut KvCache)>,
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
        let attended = self.self_attn.forward(normed, context, self.layer, cache);
        let hidden = add(hidden, normalised(after_attention, attended));
        let normed = shared.unwrap_or_else(|| normalised(before_mlp, hidden.clone()));
        let fed = self.feed_forward.forward(normed, &context.pass);
        add(hidden, normalised(&self.post_feedforward_layernorm, fed))
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
        layer: LayerConfig,
        cache: Option<(usize, &mut KvCache)>,
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
        if let Some((index, cache)) = cache {
            (k, v) = cache.update(index, k, v);
        }
        let mask = context.mask(layer.sliding_window);
        let heads = attention(
            q,
            k,
            v,
            &mask,
            config.attention_multiplier,
            config.attn_logit_softcapping,
        );
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
