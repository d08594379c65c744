use burn::tensor::{DType, Tensor};

use crate::precision::Precision;

/// `y = x·Wᵀ + b` in plain tensor operations: the definition of correct.
pub fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    linear_with(x, weight, bias, Precision::Full)
}

/// [`linear`] with operands rounded as `precision` says, where the device knows bf16.
///
/// Of its gradients those of [`linear_with`](crate::linear_with) differ in that they round `dy` as
/// well: `dx` is `linear_with(dy, Wᵀ)`.
pub fn linear_with<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    precision: Precision,
) -> Tensor<D> {
    let dtype = x.dtype();
    let mut shape = x.shape();
    let [d_out, d_in] = weight.dims();
    let rows = shape.num_elements() / d_in.max(1);
    let (x, weight) = match precision {
        Precision::Bf16 if x.device().supports_dtype(DType::BF16) => {
            (x.cast(DType::BF16), weight.cast(DType::BF16))
        }
        _ => (x, weight),
    };
    let weight = weight.cast(dtype);
    let mut y = x
        .cast(dtype)
        .reshape([rows, d_in])
        .matmul(weight.transpose());
    if let Some(bias) = bias {
        y = y + bias.cast(dtype).reshape([1, d_out]);
    }
    shape[D - 1] = d_out;
    y.reshape(shape)
}
