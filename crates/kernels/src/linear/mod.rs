mod backward;
mod flex;
mod gemv;
mod matrix;
mod mixed;
pub(crate) mod reference;
#[cfg(test)]
mod tests;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{DType, Tensor};
use burn_flex::Flex;

use crate::cpu;

#[backend_extension(Flex, Autodiff)]
pub(crate) trait LinearOps: Backend {
    fn linear_forward(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;

    fn linear_with_bias_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

impl LinearOps for Flex {
    fn linear_forward(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        flex::forward(x, weight, None)
    }

    fn linear_with_bias_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        flex::forward(x, weight, Some(bias))
    }
}

/// Linear map with the weight as Hugging Face stores it.
///
/// `y = x·Wᵀ + b`
///
/// # Shapes
/// - `x`: `[.., d_in]`, `weight`: `[d_out, d_in]`, `bias`: `[d_out]`
/// - returns `[.., d_out]`, dtype of `x`
///
/// The weight may have another float dtype than `x`: a bf16 or f16 weight under f32 activations
/// is converted exactly and the sums are f32. On the CPU that halves the memory traffic, which is
/// what a product with few rows costs, and no converted copy of the weight is ever made.
///
/// # Panics
/// When the last dimension of `x` is not `d_in`, or `bias` is not `[d_out]`.
///
/// # Examples
/// ```
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::default();
/// let x = Tensor::<2>::from_floats([[1.0, 2.0]], &device);
/// let weight = Tensor::<2>::from_floats([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], &device);
/// let y = flametune_kernels::linear(x, weight, None);
/// assert_eq!(y.into_data().try_to_vec::<f32>().unwrap(), [1.0, 2.0, 3.0]);
/// ```
pub fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    let [d_out, d_in] = weight.dims();
    assert_eq!(
        x.dims()[D - 1],
        d_in,
        "linear: last dimension of x must equal d_in of the weight"
    );
    if let Some(bias) = &bias {
        assert_eq!(bias.dims(), [d_out], "linear: bias must be [d_out]");
    }
    let mixed = matches!(weight.dtype(), DType::F32 | DType::BF16 | DType::F16);
    if !(cpu::takes(&x) && mixed && bias.as_ref().is_none_or(cpu::takes)) {
        return reference::linear(x, weight, bias);
    }
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(match bias {
        None => Dispatch::linear_forward(x, weight),
        Some(bias) => Dispatch::linear_with_bias_forward(x, weight, bias.into_dispatch()),
    })
}
