//! A trained copy of a normalisation.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::slots::{NormWeights, replaced};
use crate::tensors::TensorName;

/// Scale and shift that are trained in place of the base's.
///
/// # Shapes
/// - `weight`, `bias`: `[width]`
///
/// # Source
/// - Zhao et al. 2023, Tuning `LayerNorm` in Attention, arXiv:2312.11420, §3.1
/// - reference: peft `tuners/ln_tuning/layer.py::LNTuningLayer`; golden `fixtures/peft/ln_tuning`
#[derive(Module, Debug)]
pub struct LnTuningNorm {
    /// The scale.
    pub weight: Param<Tensor<1>>,
    /// The shift.
    pub bias: Option<Param<Tensor<1>>>,
}

impl LnTuningNorm {
    pub(crate) const TENSOR_NAMES: &'static [TensorName] = &[
        TensorName::new("weight", "ln_tuning_layers.weight"),
        TensorName::new("bias", "ln_tuning_layers.bias"),
    ];

    /// A copy of the base.
    pub(super) fn of(weight: &Tensor<1>, bias: Option<&Tensor<1>>) -> Self {
        Self {
            weight: Param::from_tensor(weight.clone().detach()),
            bias: bias.map(|bias| Param::from_tensor(bias.clone().detach())),
        }
    }

    /// Adds the change of the base's scale and shift to `sum`.
    pub(crate) fn add(&self, base: &NormWeights, sum: NormWeights) -> NormWeights {
        let weight = replaced(self.weight.val(), &base.0, sum.0);
        let bias = match (&self.bias, &base.1, sum.1) {
            (Some(own), Some(base), Some(sum)) => Some(replaced(own.val(), base, sum)),
            (_, _, sum) => sum,
        };
        (weight, bias)
    }
}
