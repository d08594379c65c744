//! The sizes of a model that memory depends on.

use flametune_lm::{BlockStyle, DecoderConfig, QkNorm};
use flametune_peft::Norm;
use serde::Serialize;

use crate::error::{Error, Result};

/// A matrix that every layer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Projection {
    /// `q_proj`.
    Query,
    /// `k_proj`.
    Key,
    /// `v_proj`.
    Value,
    /// `qkv_proj`, the three in one.
    QueryKeyValue,
    /// `o_proj`.
    Output,
    /// `gate_proj`.
    Gate,
    /// `up_proj`.
    Up,
    /// `gate_up_proj`, the two in one.
    GateUp,
    /// `down_proj`.
    Down,
}

impl Projection {
    /// All of them.
    const ALL: [Self; 9] = [
        Self::Query,
        Self::Key,
        Self::Value,
        Self::QueryKeyValue,
        Self::Output,
        Self::Gate,
        Self::Up,
        Self::GateUp,
        Self::Down,
    ];

    /// The name of the module.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Query => "q_proj",
            Self::Key => "k_proj",
            Self::Value => "v_proj",
            Self::QueryKeyValue => "qkv_proj",
            Self::Output => "o_proj",
            Self::Gate => "gate_proj",
            Self::Up => "up_proj",
            Self::GateUp => "gate_up_proj",
            Self::Down => "down_proj",
        }
    }

    /// The projection that the module of this path is.
    pub fn of_path(path: &str) -> Option<Self> {
        let name = path.rsplit('.').next()?;
        Self::ALL
            .into_iter()
            .find(|projection| projection.as_str() == name)
    }

    /// Which activation it reads.
    pub(super) fn input(self) -> Input {
        match self {
            Self::Query | Self::Key | Self::Value | Self::QueryKeyValue => Input::BeforeAttention,
            Self::Output => Input::Heads,
            Self::Gate | Self::Up | Self::GateUp => Input::BeforeMlp,
            Self::Down => Input::Gated,
        }
    }
}

/// The activations that linear layers read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    BeforeAttention,
    Heads,
    BeforeMlp,
    Gated,
}

/// A decoder's sizes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelShape {
    /// Layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width inside the MLP.
    pub d_ff: usize,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Whether logits use the embedding's matrix.
    pub tied: bool,
    /// Whether query, key and value, and gate and up, are one matrix each.
    pub fused: bool,
    /// Where blocks normalise.
    #[serde(skip)]
    pub block: BlockStyle,
    /// Where queries and keys are normalised.
    #[serde(skip)]
    pub qk_norm: QkNorm,
    /// Whether norms have a bias.
    pub norm_bias: bool,
    /// Whether query, key and value have biases.
    pub qkv_bias: bool,
    /// Whether the attention output has a bias.
    pub o_bias: bool,
    /// Whether the MLP has biases.
    pub mlp_bias: bool,
}

impl ModelShape {
    /// The sizes of a decoder.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for mixtures of experts, whose memory depends on the tokens.
    pub fn of(config: &DecoderConfig) -> Result<Self> {
        if let Some(moe) = config.moe {
            return Err(Error::InvalidConfig {
                field: "num_local_experts",
                reason: format!(
                    "must be 0 for a plan, got {}: what experts keep depends on the tokens",
                    moe.num_local_experts
                ),
            });
        }
        Ok(Self {
            layers: config.layers.len(),
            d_model: config.hidden_size,
            n_heads: config.num_attention_heads,
            n_kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            d_ff: config.intermediate_size,
            vocab: config.vocab_size,
            tied: config.tie_word_embeddings,
            fused: config.fused_projections,
            block: config.block,
            qk_norm: config.qk_norm,
            norm_bias: matches!(config.norm, Norm::Layer { .. }),
            qkv_bias: config.qkv_bias,
            o_bias: config.o_bias,
            mlp_bias: config.mlp_bias,
        })
    }

    /// Width of all query heads.
    pub fn q_width(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Width of all key heads.
    pub fn kv_width(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// `[d_out, d_in]` of a projection.
    pub fn dims(&self, projection: Projection) -> [usize; 2] {
        let (d, f, q, kv) = (self.d_model, self.d_ff, self.q_width(), self.kv_width());
        match projection {
            Projection::Query => [q, d],
            Projection::Key | Projection::Value => [kv, d],
            Projection::QueryKeyValue => [q + 2 * kv, d],
            Projection::Output => [d, q],
            Projection::Gate | Projection::Up => [f, d],
            Projection::GateUp => [2 * f, d],
            Projection::Down => [d, f],
        }
    }

    /// The projections that a layer has.
    pub fn projections(&self) -> &'static [Projection] {
        use Projection::{Down, Gate, GateUp, Key, Output, Query, QueryKeyValue, Up, Value};
        if self.fused {
            &[QueryKeyValue, Output, GateUp, Down]
        } else {
            &[Query, Key, Value, Output, Gate, Up, Down]
        }
    }

    /// Numbers of a layer's norms and biases.
    pub fn layer_vectors(&self) -> usize {
        let (d, f, q, kv) = (self.d_model, self.d_ff, self.q_width(), self.kv_width());
        let norms = match self.block {
            BlockStyle::PreNorm | BlockStyle::PostNorm => 2,
            BlockStyle::Sandwich => 4,
            BlockStyle::Parallel => 1,
        };
        let qk = match self.qk_norm {
            QkNorm::None => 0,
            QkNorm::PerHead => 2 * self.head_dim,
            QkNorm::Full => q + kv,
        };
        let norms = (norms * d + qk) * (1 + usize::from(self.norm_bias));
        let bias = |has: bool, len: usize| if has { len } else { 0 };
        norms
            + bias(self.qkv_bias, q + 2 * kv)
            + bias(self.o_bias, d)
            + bias(self.mlp_bias, 2 * f + d)
    }

    /// Numbers of embedding, head and last norm.
    pub fn outer(&self) -> usize {
        let tables = if self.tied { 1 } else { 2 };
        tables * self.vocab * self.d_model + self.d_model * (1 + usize::from(self.norm_bias))
    }
}
