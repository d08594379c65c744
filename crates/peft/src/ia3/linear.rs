//! (IA)³ on a linear layer.

use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor};
use flametune_quant::BaseLinear;

use crate::base::{self, cast, meet};
use crate::error::Result;
use crate::random::Stream;
use crate::slots::{DeltaLinear, LinearAdapter, LinearInput, PartInfo};
use crate::tensors::TensorName;

/// A learned gain of each output of a frozen linear layer, or of each input of a feed-forward one.
///
/// `y = l ∘ (x·W₀ᵀ + b)`, or `y = (l ∘ x)·W₀ᵀ + b`
///
/// Nothing dense is built: the gain acts on activations.
///
/// # Shapes
/// - `ia3_l`: `[d_out, 1]`, or `[1, d_in]`, as on disk
///
/// # Source
/// - Liu et al. 2022, arXiv:2205.05638, §3.3
/// - reference: peft `tuners/ia3/layer.py::Linear`; golden `fixtures/peft/ia3`
#[derive(Module, Debug)]
pub struct Ia3Linear {
    /// The gains.
    pub ia3_l: Param<Tensor<2>>,
    /// Whether they belong to the inputs.
    #[module(skip)]
    pub is_feedforward: bool,
}

impl Ia3Linear {
    pub(super) fn init(
        base: &BaseLinear,
        is_feedforward: bool,
        ones: bool,
        (seed, key): (u64, u64),
    ) -> Self {
        let shape = if is_feedforward {
            [1, base.d_in()]
        } else {
            [base.d_out(), 1]
        };
        let place = (&base::device(base), DType::F32);
        let gains = if ones {
            Tensor::ones(shape, place)
        } else {
            Stream::new(&[seed, key]).normal_tensor(shape, 1.0, place)
        };
        Self {
            ia3_l: Param::from_tensor(gains),
            is_feedforward,
        }
    }

    /// The gains as one row.
    fn row(&self) -> Tensor<2> {
        self.ia3_l.val().reshape([1, -1])
    }

    /// `x ∘ gain` in the dtype of `x`.
    fn scaled(x: Tensor<2>, gain: Tensor<2>) -> Tensor<2> {
        let dtype = x.dtype();
        cast(meet(x, gain.dtype()) * gain, dtype)
    }
}

impl LinearAdapter for Ia3Linear {
    fn forward(&self, input: LinearInput<'_>, y: Tensor<2>) -> Tensor<2> {
        let change = self.row() - 1.0;
        if self.is_feedforward {
            y + base::product(input.base, Self::scaled(input.x, change))
        } else {
            y + Self::scaled(input.base_output, change)
        }
    }

    fn alone(&self, base: &BaseLinear, x: &Tensor<2>) -> Option<Tensor<2>> {
        self.is_feedforward
            .then(|| base.forward(Self::scaled(x.clone(), self.row())))
    }

    fn delta(&self, base: &BaseLinear) -> Result<DeltaLinear, &'static str> {
        let change = cast(self.ia3_l.val(), DType::F32) - 1.0;
        let bias = base::bias(base)
            .filter(|_| !self.is_feedforward)
            .map(|bias| cast(bias, DType::F32) * change.clone().reshape([-1]));
        Ok(DeltaLinear {
            weight: Some(cast(base::dense_weight(base), DType::F32) * change),
            bias,
        })
    }

    fn info(&self) -> PartInfo {
        PartInfo::adapter("ia3", None)
    }

    fn tensor_names(&self) -> &'static [TensorName] {
        const { &[TensorName::new("ia3_l", "ia3_l")] }
    }
}
