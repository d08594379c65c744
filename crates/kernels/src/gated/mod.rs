mod backward;
#[cfg(feature = "cube")]
mod cube;
mod flex;
pub(crate) mod reference;
#[cfg(test)]
mod tests;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;
use burn_flex::Flex;

#[cfg(all(test, feature = "cube"))]
pub(crate) use cube::{GatedCubeGradients, GatedCubeOps};

use crate::cpu;
use crate::precision::Precision;

/// What the gate passes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Activation {
    Silu,
    GeluTanh,
}

#[backend_extension(Flex, Autodiff)]
pub(crate) trait GatedOps: Backend {
    fn gated_forward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        activation: Activation,
        precision: Precision,
    ) -> FloatTensor<Self>;
}

impl GatedOps for Flex {
    fn gated_forward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        activation: Activation,
        _: Precision,
    ) -> FloatTensor<Self> {
        flex::forward(activation, gate, up)
    }
}

/// SiLU-gated linear unit: `silu(gate) · up` with `silu(x) = x / (1 + e⁻ˣ)`.
///
/// Computed in f32 and rounded once to the dtype of `gate`.
///
/// # Panics
/// When the shapes differ.
///
/// # Source
/// - Shazeer 2020, GLU Variants Improve Transformer, arXiv:2002.05202, eq. (5)
///
/// # Examples
/// ```
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::default();
/// let gate = Tensor::<1>::from_floats([0.0, 2.0], &device);
/// let up = Tensor::<1>::from_floats([3.0, 3.0], &device);
/// let y = flametune_kernels::swiglu(gate, up).into_data();
/// y.assert_approx_eq::<f32>(&[0.0, 5.284_782_5].into(), Default::default());
/// ```
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    swiglu_with(gate, up, Precision::Full)
}

/// [`swiglu`] between layers that multiply as `precision` says.
///
/// With [`Precision::Bf16`] the value is the same, and the backward pass keeps gate and up rounded
/// to bf16 where there is a native form: half the memory, and gradients as exact as the products
/// that they enter.
///
/// # Panics
/// When the shapes differ.
pub fn swiglu_with<const D: usize>(
    gate: Tensor<D>,
    up: Tensor<D>,
    precision: Precision,
) -> Tensor<D> {
    assert_eq!(
        gate.dims(),
        up.dims(),
        "swiglu: gate and up must have one shape"
    );
    gated(gate, up, Activation::Silu, precision)
}

/// GELU-gated linear unit with the tanh form of GELU: `gelu_tanh(gate) · up` with
/// `gelu_tanh(x) = x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
///
/// Computed in f32 and rounded once to the dtype of `gate`.
///
/// # Panics
/// When the shapes differ.
///
/// # Source
/// - Shazeer 2020, GLU Variants Improve Transformer, arXiv:2002.05202, eq. (5)
/// - Hendrycks and Gimpel 2016, Gaussian Error Linear Units, arXiv:1606.08415, §2
pub fn geglu_tanh<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    assert_eq!(
        gate.dims(),
        up.dims(),
        "geglu_tanh: gate and up must have one shape"
    );
    gated(gate, up, Activation::GeluTanh, Precision::Full)
}

fn gated<const D: usize>(
    gate: Tensor<D>,
    up: Tensor<D>,
    activation: Activation,
    precision: Precision,
) -> Tensor<D> {
    if cpu::takes(&gate) && cpu::takes(&up) {
        let (gate, up) = (gate.into_dispatch(), up.into_dispatch());
        let y = Dispatch::gated_forward(gate, up, activation, precision);
        return Tensor::from_dispatch(y);
    }
    #[cfg(feature = "cube")]
    if cube::takes(&gate, &up) {
        return cube::gated(gate, up, activation);
    }
    reference::gated(gate, up, activation)
}
