use burn::tensor::{DType, Tensor};

use super::Norm;

/// Either normalization in plain tensor operations: the definition of correct.
pub(crate) fn norm<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    bias: Option<Tensor<1>>,
    norm: Norm,
) -> Tensor<D> {
    let dtype = x.dtype();
    let mut x = x.cast(DType::F32);
    if norm.centred {
        x = x.clone() - x.mean_dim(D - 1);
    }
    let mean_square = (x.clone() * x.clone()).mean_dim(D - 1);
    let mut y =
        x * (mean_square + norm.eps).sqrt().recip() * weight.cast(DType::F32).unsqueeze::<D>();
    if let Some(bias) = bias {
        y = y + bias.cast(DType::F32).unsqueeze::<D>();
    }
    y.cast(dtype)
}
