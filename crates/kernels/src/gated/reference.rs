use burn::tensor::{DType, Tensor, activation};

use super::Activation;

/// `act(gate) · up` in plain tensor operations: the definition of correct.
pub(crate) fn gated<const D: usize>(
    gate: Tensor<D>,
    up: Tensor<D>,
    activation: Activation,
) -> Tensor<D> {
    let dtype = gate.dtype();
    let (gate, up) = (gate.cast(DType::F32), up.cast(DType::F32));
    let open = match activation {
        Activation::Silu => activation::silu(gate),
        Activation::GeluTanh => activation::gelu_approximate(gate),
    };
    (open * up).cast(dtype)
}
