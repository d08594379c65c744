//! Full copies of modules that are trained beside an adapter, and trained biases.
//!
//! They are adapters like the others: the base stays as it is, and comes back as soon as another
//! adapter or none is chosen.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use flametune_kernels::linear;
use flametune_quant::BaseLinear;

use super::norm::NormWeights;
use super::{DeltaLinear, EmbeddingAdapter, EmbeddingInput, LinearAdapter, LinearInput, PartInfo};
use crate::base::{self, cast};
use crate::tensors::TensorName;

/// A linear layer that takes the place of the base's: `y = x·Wᵀ + b` with its own `W` and `b`.
///
/// # Shapes
/// - `weight`: `[d_out, d_in]`, `bias`: `[d_out]`
///
/// # Source
/// - reference: peft `utils/other.py::ModulesToSaveWrapper`
#[derive(Module, Debug)]
pub struct SavedLinear {
    /// The weight.
    pub weight: Param<Tensor<2>>,
    /// The bias.
    pub bias: Option<Param<Tensor<1>>>,
    /// Whether the weight is stored as `[d_in, d_out]`.
    #[module(skip)]
    pub fan_in_fan_out: bool,
}

impl SavedLinear {
    /// A copy of the base.
    pub(crate) fn of(base: &BaseLinear) -> Self {
        Self {
            weight: Param::from_tensor(base::dense_weight(base).detach()),
            bias: base::bias(base).map(|bias| Param::from_tensor(bias.detach())),
            fan_in_fan_out: base.fan_in_fan_out(),
        }
    }
}

impl LinearAdapter for SavedLinear {
    fn forward(&self, input: LinearInput<'_>, y: Tensor<2>) -> Tensor<2> {
        let own = linear(
            input.x,
            self.weight.val(),
            self.bias.as_ref().map(Param::val),
        );
        // With no adapter before it the base's output drops out exactly.
        own + (y - input.base_output)
    }

    fn alone(&self, _base: &BaseLinear, x: &Tensor<2>) -> Option<Tensor<2>> {
        let bias = self.bias.as_ref().map(Param::val);
        Some(linear(x.clone(), self.weight.val(), bias))
    }

    fn delta(&self, base: &BaseLinear) -> Result<DeltaLinear, &'static str> {
        let bias = match (self.bias.as_ref().map(Param::val), base::bias(base)) {
            (Some(own), Some(base)) => Some(own - base),
            _ => None,
        };
        let weight = self.weight.val();
        let base = cast(base::dense_weight(base), weight.dtype());
        Ok(DeltaLinear {
            weight: Some(weight - base),
            bias,
        })
    }

    fn info(&self) -> PartInfo {
        PartInfo::COPY
    }

    fn tensor_names(&self) -> &'static [TensorName] {
        const PLAIN: &[TensorName] = &[
            TensorName::new("weight", "weight"),
            TensorName::new("bias", "bias"),
        ];
        const CONV1D: &[TensorName] = &[
            TensorName::transposed("weight", "weight"),
            TensorName::new("bias", "bias"),
        ];
        if self.fan_in_fan_out { CONV1D } else { PLAIN }
    }
}

/// A table that takes the place of the base's.
///
/// # Shapes
/// - `weight`: `[vocab, d_model]`
#[derive(Module, Debug)]
pub struct SavedEmbedding {
    /// The vectors.
    pub weight: Param<Tensor<2>>,
}

impl SavedEmbedding {
    pub(crate) fn of(weight: Tensor<2>) -> Self {
        Self {
            weight: Param::from_tensor(weight.detach()),
        }
    }
}

impl EmbeddingAdapter for SavedEmbedding {
    fn forward(&self, input: EmbeddingInput<'_>, y: Tensor<2>) -> Tensor<2> {
        let own = self.weight.val().select(0, input.ids);
        cast(own, y.dtype()) + (y - input.base_output)
    }

    fn delta(&self, weight: &Tensor<2>) -> Tensor<2> {
        let own = self.weight.val();
        let dtype = own.dtype();
        own - cast(weight.clone(), dtype)
    }

    fn info(&self) -> PartInfo {
        PartInfo::COPY
    }

    fn tensor_names(&self) -> &'static [TensorName] {
        const { &[TensorName::new("weight", "weight")] }
    }
}

/// Scale and shift that take the place of the base's.
///
/// # Shapes
/// - `weight`, `bias`: `[width]`
#[derive(Module, Debug)]
pub struct SavedNorm {
    /// The scale.
    pub weight: Param<Tensor<1>>,
    /// The shift.
    pub bias: Option<Param<Tensor<1>>>,
}

impl SavedNorm {
    pub(crate) const TENSOR_NAMES: &'static [TensorName] = &[
        TensorName::new("weight", "weight"),
        TensorName::new("bias", "bias"),
    ];

    pub(crate) fn of((weight, bias): NormWeights) -> Self {
        Self {
            weight: Param::from_tensor(weight.detach()),
            bias: bias.map(|bias| Param::from_tensor(bias.detach())),
        }
    }

    pub(crate) fn add(&self, base: &NormWeights, sum: NormWeights) -> NormWeights {
        let weight = replaced(self.weight.val(), &base.0, sum.0);
        let bias = match (&self.bias, &base.1, sum.1) {
            (Some(own), Some(base), Some(sum)) => Some(replaced(own.val(), base, sum)),
            (_, _, sum) => sum,
        };
        (weight, bias)
    }
}

/// The parameter `own` in place of the base's, in a sum with other adapters.
pub(crate) fn replaced(own: Tensor<1>, base: &Tensor<1>, sum: Tensor<1>) -> Tensor<1> {
    cast(own, sum.dtype()) + (sum - base.clone())
}

/// A bias in place of a linear layer's.
///
/// # Shapes
/// - `bias`: `[d_out]`
#[derive(Module, Debug)]
pub struct BiasLinear {
    /// The bias.
    pub bias: Param<Tensor<1>>,
    /// Whether another method of the same adapter sits on the layer, which PEFT's file shows in
    /// the name.
    #[module(skip)]
    pub adapted: bool,
}

impl BiasLinear {
    /// A copy of the base's bias, if it has one.
    pub(crate) fn of(base: &BaseLinear, adapted: bool) -> Option<Self> {
        base::bias(base).map(|bias| Self {
            bias: Param::from_tensor(bias.detach()),
            adapted,
        })
    }

    fn change(&self, base: &BaseLinear) -> Option<Tensor<1>> {
        let own = self.bias.val();
        base::bias(base).map(|bias| own - bias)
    }
}

impl LinearAdapter for BiasLinear {
    fn forward(&self, input: LinearInput<'_>, y: Tensor<2>) -> Tensor<2> {
        match self.change(input.base) {
            Some(change) => {
                let dtype = y.dtype();
                y + cast(change, dtype).unsqueeze()
            }
            None => y,
        }
    }

    fn delta(&self, base: &BaseLinear) -> Result<DeltaLinear, &'static str> {
        Ok(DeltaLinear {
            weight: None,
            bias: self.change(base),
        })
    }

    fn info(&self) -> PartInfo {
        PartInfo::BIAS
    }

    fn tensor_names(&self) -> &'static [TensorName] {
        const ADAPTED: &[TensorName] = &[TensorName::new("bias", "base_layer.bias")];
        const ALONE: &[TensorName] = &[TensorName::new("bias", "bias")];
        if self.adapted { ADAPTED } else { ALONE }
    }
}

/// A bias in place of a normalisation's.
///
/// # Shapes
/// - `bias`: `[width]`
#[derive(Module, Debug)]
pub struct BiasNorm {
    /// The bias.
    pub bias: Param<Tensor<1>>,
}

impl BiasNorm {
    pub(crate) const TENSOR_NAMES: &'static [TensorName] = &[TensorName::new("bias", "bias")];

    /// A copy of the base's bias, if it has one.
    pub(crate) fn of(bias: Option<Tensor<1>>) -> Option<Self> {
        bias.map(|bias| Self {
            bias: Param::from_tensor(bias.detach()),
        })
    }

    pub(crate) fn add(&self, base: &NormWeights, (weight, bias): NormWeights) -> NormWeights {
        let bias = match (&base.1, bias) {
            (Some(base), Some(sum)) => Some(replaced(self.bias.val(), base, sum)),
            (_, sum) => sum,
        };
        (weight, bias)
    }
}
