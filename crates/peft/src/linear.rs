//! The slot for adapters around one linear layer.

use burn::module::Module;
use burn::tensor::Tensor;
use flametune_quant::BaseLinear;

/// One linear projection of a model: a frozen base, and the place where adapters attach.
///
/// Without adapters it computes exactly what its base computes.
///
/// # Shapes
/// - input `[.., d_in]`, output `[.., d_out]`
///
/// # Source
/// - the name `base_layer` is that of PEFT's `tuners/tuners_utils.py::BaseTunerLayer`
#[derive(Module, Debug)]
pub struct AdapterLinear {
    /// The frozen linear layer.
    pub base_layer: BaseLinear,
}

impl AdapterLinear {
    /// Wraps a base layer; no adapters yet.
    pub fn new(base_layer: BaseLinear) -> Self {
        Self { base_layer }
    }

    /// Computes the layer's output.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.base_layer.forward(x)
    }
}
