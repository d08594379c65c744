//! Between tensors and numbers in host memory.

use burn::tensor::{DType, Device, Tensor, TensorData};

/// The numbers of a tensor, in f32.
pub(crate) fn numbers<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    let data = tensor.clone().cast(DType::F32).into_data();
    match data.try_into_vec() {
        Ok(values) => values,
        Err(_) => unreachable!("the tensor was cast to f32"),
    }
}

/// Numbers as a tensor without a gradient.
pub(crate) fn constant(values: Vec<f32>, device: &Device) -> Tensor<1> {
    let len = values.len();
    Tensor::from_data(TensorData::new(values, [len]), (device, DType::F32))
}

/// A length or a count as a number.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
pub(crate) fn count(n: usize) -> f64 {
    n as f64
}

/// A computed number at the precision of tensors.
#[expect(
    clippy::cast_possible_truncation,
    reason = "rounding is what is asked for"
)]
pub(crate) fn f32_of(x: f64) -> f32 {
    x as f32
}
