//! What stands between two attentions: a gated MLP, or a mixture of them.

use burn::module::Module;
use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData, activation};
use flametune_kernels::{Precision, geglu_tanh, swiglu_with};
use flametune_peft::{AdapterLinear, AdapterPass};

use crate::config::{Activation, DecoderConfig, MoeConfig};
use crate::error::Result;
use crate::weights::Scope;

/// The feed-forward part of a layer, in the form that its family stores.
#[expect(
    clippy::large_enum_variant,
    reason = "one a layer, and nothing beside its weights"
)]
#[derive(Module, Debug)]
pub enum FeedForward {
    /// Gate, up and down as a matrix each.
    Gated(Gated),
    /// Gate and up as one matrix (Phi 3).
    FusedGated(FusedGated),
    /// A mixture of experts (Mixtral).
    Experts(Experts),
}

/// Holds the MLP under its name on disk.
#[derive(Module, Debug)]
pub struct Gated {
    /// The MLP.
    pub mlp: GatedMlp,
}

/// Holds the fused MLP under its name on disk.
#[derive(Module, Debug)]
pub struct FusedGated {
    /// The MLP.
    pub mlp: FusedGatedMlp,
}

/// Holds the experts under their name on disk.
#[derive(Module, Debug)]
pub struct Experts {
    /// The mixture.
    pub block_sparse_moe: SparseMoe,
}

/// `down(act(gate(x)) · up(x))`.
#[derive(Module, Debug)]
pub struct GatedMlp {
    /// The gate, `[d_ff, d_model]`.
    pub gate_proj: AdapterLinear,
    /// What the gate lets through, `[d_ff, d_model]`.
    pub up_proj: AdapterLinear,
    /// Back to the residual stream, `[d_model, d_ff]`.
    pub down_proj: AdapterLinear,
    #[module(skip)]
    act: Activation,
}

/// [`GatedMlp`] with gate and up stacked in one matrix.
#[derive(Module, Debug)]
pub struct FusedGatedMlp {
    /// Gate above up, `[2 · d_ff, d_model]`.
    pub gate_up_proj: AdapterLinear,
    /// Back to the residual stream, `[d_model, d_ff]`.
    pub down_proj: AdapterLinear,
    #[module(skip)]
    act: Activation,
}

/// A mixture of experts: each token goes through the few that a linear gate ranks highest.
///
/// # Source
/// - Jiang et al. 2024, Mixtral of Experts, arXiv:2401.04088, §2.1
/// - reference: transformers `models/mixtral/modeling_mixtral.py`; golden `fixtures/models/mixtral`
#[derive(Module, Debug)]
pub struct SparseMoe {
    /// Scores of the experts, `[num_local_experts, d_model]`.
    pub gate: AdapterLinear,
    /// The experts.
    pub experts: Vec<Expert>,
    #[module(skip)]
    config: MoeConfig,
}

/// One expert: `w2(act(w1(x)) · w3(x))`.
#[derive(Module, Debug)]
pub struct Expert {
    /// The gate.
    pub w1: AdapterLinear,
    /// Back to the residual stream.
    pub w2: AdapterLinear,
    /// What the gate lets through.
    pub w3: AdapterLinear,
    #[module(skip)]
    act: Activation,
}

fn gated(act: Activation, gate: Tensor<3>, up: Tensor<3>, precision: Precision) -> Tensor<3> {
    match act {
        Activation::Silu => swiglu_with(gate, up, precision),
        Activation::GeluTanh => geglu_tanh(gate, up),
    }
}

impl FeedForward {
    /// Loads what `scope`, a layer, has as its feed-forward part.
    pub(crate) fn load(scope: &Scope<'_>, config: &DecoderConfig) -> Result<Self> {
        let (width, inner, bias) = (
            config.hidden_size,
            config.intermediate_size,
            config.mlp_bias,
        );
        let act = config.hidden_act;
        if let Some(moe) = config.moe {
            let scope = scope.at("block_sparse_moe");
            return Ok(Self::Experts(Experts {
                block_sparse_moe: SparseMoe::load(&scope, config, moe)?,
            }));
        }
        let mlp = scope.at("mlp");
        let down_proj = mlp.at("down_proj").linear(inner, width, bias)?;
        Ok(if config.fused_projections {
            let gate_up_proj = mlp.at("gate_up_proj").linear(width, 2 * inner, bias)?;
            Self::FusedGated(FusedGated {
                mlp: FusedGatedMlp {
                    gate_up_proj,
                    down_proj,
                    act,
                },
            })
        } else {
            let gate_proj = mlp.at("gate_proj").linear(width, inner, bias)?;
            let up_proj = mlp.at("up_proj").linear(width, inner, bias)?;
            Self::Gated(Gated {
                mlp: GatedMlp {
                    gate_proj,
                    up_proj,
                    down_proj,
                    act,
                },
            })
        })
    }

    /// The feed-forward part of one layer.
    ///
    /// # Shapes
    /// - `x`: `[batch, seq, d_model]`, returned alike
    pub fn forward(&self, x: Tensor<3>, pass: &AdapterPass) -> Tensor<3> {
        match self {
            Self::Gated(Gated { mlp }) => {
                let gate = mlp.gate_proj.forward(x.clone(), pass);
                let precision = mlp.down_proj.base_layer.precision();
                let inner = gated(mlp.act, gate, mlp.up_proj.forward(x, pass), precision);
                mlp.down_proj.forward(inner, pass)
            }
            Self::FusedGated(FusedGated { mlp }) => {
                let gate_up = mlp.gate_up_proj.forward(x, pass);
                let inner = gate_up.dims()[2] / 2;
                let gate = gate_up.clone().narrow(2, 0, inner);
                let precision = mlp.down_proj.base_layer.precision();
                let up = gate_up.narrow(2, inner, inner);
                let inner = gated(mlp.act, gate, up, precision);
                mlp.down_proj.forward(inner, pass)
            }
            Self::Experts(Experts { block_sparse_moe }) => block_sparse_moe.forward(x, pass),
        }
    }
}

impl SparseMoe {
    fn load(scope: &Scope<'_>, config: &DecoderConfig, moe: MoeConfig) -> Result<Self> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let expert = |index: usize| -> Result<Expert> {
            let scope = scope.at("experts").at(index);
            Ok(Expert {
                w1: scope.at("w1").linear(width, inner, false)?,
                w2: scope.at("w2").linear(inner, width, false)?,
                w3: scope.at("w3").linear(width, inner, false)?,
                act: config.hidden_act,
            })
        };
        Ok(Self {
            gate: scope
                .at("gate")
                .linear(width, moe.num_local_experts, false)?,
            experts: (0..moe.num_local_experts)
                .map(expert)
                .collect::<Result<_>>()?,
            config: moe,
        })
    }

    /// Sends each token through its experts and adds their outputs, weighted by the softmax over
    /// the chosen experts' scores.
    fn forward(&self, x: Tensor<3>, pass: &AdapterPass) -> Tensor<3> {
        let [batch, seq, width] = x.dims();
        let pass = &pass.repeat_rows(seq);
        let tokens = x.reshape([batch * seq, width]);
        let device = tokens.device();
        let scores = self.gate.forward(tokens.clone(), pass);
        let (top, chosen) = scores.topk_with_indices(self.config.num_experts_per_tok, 1);
        let shares = activation::softmax(top, 1);
        // Which tokens each expert gets is decided on the host: the groups are ragged.
        let chosen: Vec<i64> = chosen.into_data().iter::<i64>().collect();
        let mut mixed = tokens.zeros_like();
        for (index, expert) in self.experts.iter().enumerate() {
            let picks: Vec<i64> = (0i64..)
                .zip(&chosen)
                .filter(|&(_, &id)| usize::try_from(id) == Ok(index))
                .map(|(pick, _)| pick)
                .collect();
            if picks.is_empty() {
                continue;
            }
            let per_token = i64::try_from(self.config.num_experts_per_tok).unwrap_or(1);
            let rows: Vec<i64> = picks.iter().map(|pick| pick / per_token).collect();
            let count = rows.len();
            let places: Vec<usize> = rows
                .iter()
                .filter_map(|&row| usize::try_from(row).ok())
                .collect();
            let pass = pass.select_rows(&places);
            let ids = |ids: Vec<i64>| -> Tensor<1, Int> {
                Tensor::from_data(TensorData::new(ids, [count]), &device)
            };
            let rows = ids(rows);
            let share: Tensor<2> = shares.clone().reshape([-1, 1]).select(0, ids(picks));
            let input = tokens.clone().select(0, rows.clone());
            // Each token is a row of its own, so that it keeps the adapter of its row.
            let output = expert.forward(input.unsqueeze_dim(1), &pass).squeeze_dim(1) * share;
            mixed = mixed.select_assign(0, rows, output, IndexingUpdateOp::Add);
        }
        mixed.reshape([batch, seq, width])
    }
}

impl Expert {
    fn forward(&self, x: Tensor<3>, pass: &AdapterPass) -> Tensor<3> {
        let gate = self.w1.forward(x.clone(), pass);
        let precision = self.w2.base_layer.precision();
        let inner = gated(self.act, gate, self.w3.forward(x, pass), precision);
        self.w2.forward(inner, pass)
    }
}
