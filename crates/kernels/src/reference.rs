//! The same operations in plain tensor operations: the definition of correct.
//!
//! They run on every backend and are differentiable; the functions at the top of this crate give
//! the same numbers, faster where they can. Tests and benchmarks compare the two.

use burn::tensor::Tensor;

use crate::gated::{Activation, reference::gated};
use crate::norm::{Norm, reference::norm};
use crate::precision::Precision;

pub use crate::attention::reference::{attention, attention_with};
pub use crate::cross_entropy::reference::{
    linear_cross_entropy, linear_logps, linear_logps_with_entropy,
};
pub use crate::linear::reference::{linear, linear_with};
pub use crate::lora::reference::{lora_linear, lora_segmented};
pub use crate::packed::reference::{dequantize, packed_linear};
pub use crate::rope::reference::rope;

/// See [`rms_norm`](crate::rms_norm).
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    norm(
        x,
        weight,
        None,
        Norm {
            eps,
            centred: false,
            precision: Precision::Full,
        },
    )
}

/// See [`layer_norm`](crate::layer_norm).
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    bias: Option<Tensor<1>>,
    eps: f64,
) -> Tensor<D> {
    let norm = Norm {
        eps,
        centred: true,
        precision: Precision::Full,
    };
    crate::norm::reference::norm(x, weight, bias, norm)
}

/// See [`swiglu`](crate::swiglu).
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    gated(gate, up, Activation::Silu)
}

/// See [`geglu_tanh`](crate::geglu_tanh).
pub fn geglu_tanh<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    gated(gate, up, Activation::GeluTanh)
}
