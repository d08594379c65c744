//! The slot for adapters around a normalisation.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use flametune_kernels::{layer_norm, rms_norm};

use super::{BiasNorm, NamedAdapter, PartInfo, SavedNorm, SlotMethod};
use crate::ln_tuning::LnTuningNorm;
use crate::selection::AdapterPass;
use crate::tensors::TensorName;

/// The normalisation of hidden states.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Norm {
    /// Root-mean-square normalisation, `x / rms(x) · w`.
    Rms {
        /// Added to the mean square.
        eps: f64,
    },
    /// The same with `1 + w` in place of `w` (Gemma).
    RmsOffset {
        /// Added to the mean square.
        eps: f64,
    },
    /// Mean and variance normalisation with weight and bias.
    Layer {
        /// Added to the variance.
        eps: f64,
    },
}

/// A frozen normalisation with its weight, its bias where the kind has one, and its adapters.
///
/// # Shapes
/// - `weight`, `bias`: `[width]`; acts on the last dimension
#[derive(Module, Debug)]
pub struct AdapterNorm {
    /// The scale.
    pub weight: Param<Tensor<1>>,
    /// The shift, of [`Norm::Layer`] only.
    pub bias: Option<Param<Tensor<1>>>,
    /// The adapters, in the order in which they were added.
    pub adapters: Vec<NamedAdapter<NormMethod>>,
    /// Which normalisation it is.
    #[module(skip)]
    pub kind: Norm,
    /// Weight and bias as they were before adapters were merged into them.
    #[module(skip)]
    pub(crate) unmerged: Option<(Tensor<1>, Option<Tensor<1>>)>,
}

/// The methods that adapt normalisations.
#[derive(Module, Debug)]
pub enum NormMethod {
    /// Trained scale and shift (LN tuning).
    LnTuning(LnTuningNorm),
    /// A full copy that replaces weight and bias (`modules_to_save`).
    Saved(SavedNorm),
    /// A trained bias in place of the layer's (`bias = "all"`).
    Bias(BiasNorm),
}

/// Scale and shift of a normalisation.
pub(crate) type NormWeights = (Tensor<1>, Option<Tensor<1>>);

impl NormMethod {
    /// Adds the adapter's change of the base's scale and shift to `sum`.
    pub(crate) fn add(&self, base: &NormWeights, sum: NormWeights) -> NormWeights {
        match self {
            Self::LnTuning(tuned) => tuned.add(base, sum),
            Self::Saved(saved) => saved.add(base, sum),
            Self::Bias(bias) => bias.add(base, sum),
        }
    }
}

impl SlotMethod for NormMethod {
    fn info(&self) -> PartInfo {
        match self {
            Self::LnTuning(_) => PartInfo::adapter("ln_tuning", None),
            Self::Saved(_) => PartInfo::COPY,
            Self::Bias(_) => PartInfo::BIAS,
        }
    }

    fn tensor_names(&self) -> &'static [TensorName] {
        match self {
            Self::LnTuning(_) => LnTuningNorm::TENSOR_NAMES,
            Self::Saved(_) => SavedNorm::TENSOR_NAMES,
            Self::Bias(_) => BiasNorm::TENSOR_NAMES,
        }
    }
}

impl AdapterNorm {
    /// Wraps weight and bias; no adapters yet.
    pub fn new(weight: Param<Tensor<1>>, bias: Option<Param<Tensor<1>>>, kind: Norm) -> Self {
        Self {
            weight,
            bias,
            adapters: Vec::new(),
            kind,
            unmerged: None,
        }
    }

    /// Normalises over the last dimension, with the adapters that `pass` chooses.
    ///
    /// # Panics
    /// When the last dimension of `x` is not the width of the layer, or the pass has another
    /// number of rows than the first dimension of `x`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>, pass: &AdapterPass) -> Tensor<D> {
        let base = self.weights();
        if self.adapters.is_empty() || pass.is_base() {
            return self.normalise(x, base);
        }
        let dims = x.dims();
        let rows = dims[..D - 1].iter().product::<usize>();
        let x = x.reshape([rows, dims[D - 1]]);
        let y = pass.run(
            |name| self.adapters.iter().any(|adapter| adapter.name == name),
            rows / dims[0].max(1),
            |names| self.normalise(x.clone(), self.adapted(names)),
            |name, set| self.normalise(set.of(&x), self.adapted(name.as_slice())),
        );
        y.reshape(dims)
    }

    pub(crate) fn weights(&self) -> NormWeights {
        (self.weight.val(), self.bias.as_ref().map(Param::val))
    }

    /// Scale and shift with these adapters.
    pub(crate) fn adapted(&self, names: &[&str]) -> NormWeights {
        let base = self.weights();
        let mut sum = base.clone();
        for name in names {
            for adapter in self.adapters.iter().filter(|adapter| adapter.name == *name) {
                sum = adapter.method.add(&base, sum);
            }
        }
        sum
    }

    fn normalise<const D: usize>(&self, x: Tensor<D>, (weight, bias): NormWeights) -> Tensor<D> {
        match self.kind {
            Norm::Rms { eps } => rms_norm(x, weight, eps),
            Norm::RmsOffset { eps } => rms_norm(x, weight + 1.0, eps),
            Norm::Layer { eps } => layer_norm(x, weight, bias, eps),
        }
    }
}
