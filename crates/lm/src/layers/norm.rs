//! Normalisation of hidden states.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use flametune_kernels::{layer_norm, rms_norm};

use crate::config::Norm;

/// A normalisation layer with its weight, and its bias where the kind has one.
///
/// # Shapes
/// - `weight`, `bias`: `[width]`; acts on the last dimension
#[derive(Module, Debug)]
pub struct NormLayer {
    /// The scale.
    pub weight: Param<Tensor<1>>,
    /// The shift, of [`Norm::Layer`] only.
    pub bias: Option<Param<Tensor<1>>>,
    /// Which normalisation it is.
    #[module(skip)]
    pub kind: Norm,
}

impl NormLayer {
    /// Normalises over the last dimension.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match self.kind {
            Norm::Rms { eps } => rms_norm(x, self.weight.val(), eps),
            Norm::RmsOffset { eps } => rms_norm(x, self.weight.val() + 1.0, eps),
            Norm::Layer { eps } => layer_norm(
                x,
                self.weight.val(),
                self.bias.as_ref().map(Param::val),
                eps,
            ),
        }
    }
}
