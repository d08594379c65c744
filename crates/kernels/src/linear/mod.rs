mod backward;
mod flex;
mod gemv;
pub(crate) mod matrix;
pub(crate) mod mixed;
pub(crate) mod product16;
pub(crate) mod reference;
#[cfg(test)]
mod tests;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{DType, Tensor};
use burn_flex::Flex;

pub(crate) use flex::{bias_gradient, forward, in_parts, lies_in_rows, with_width, x_gradient};

use crate::cpu;
use crate::precision::Precision;

#[backend_extension(Flex, Autodiff)]
pub(crate) trait LinearOps: Backend {
    fn linear_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        precision: Precision,
    ) -> FloatTensor<Self>;

    fn linear_with_bias_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        precision: Precision,
    ) -> FloatTensor<Self>;
}

impl LinearOps for Flex {
    fn linear_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        precision: Precision,
    ) -> FloatTensor<Self> {
        flex::forward(x, weight, None, precision)
    }

    fn linear_with_bias_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        precision: Precision,
    ) -> FloatTensor<Self> {
        flex::forward(x, weight, Some(bias), precision)
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
/// Under bf16 activations every weight is rounded to bf16. On the CPU the sums are f32 then too,
/// and `y` is rounded once, with the bias in it.
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
    linear_with(x, weight, bias, Precision::Full)
}

/// [`linear`] whose product multiplies as `precision` says, forward and backward.
///
/// With [`Precision::Bf16`], `r` rounding to bf16, and all sums in f32:
///
/// `y = r(x)·r(W)ᵀ + b`, `dx = r(dy)·r(W)`, `dW = r(dy)ᵀ·r(x)`, `db = Σ dy`
///
/// On the CPU numbers below 2⁻¹²⁶ may be taken for zero in these products.
///
/// # Panics
/// As [`linear`].
pub fn linear_with<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    precision: Precision,
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
    if !takes(&x, &weight, bias.as_ref()) {
        return reference::linear_with(x, weight, bias, precision);
    }
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(match bias {
        None => Dispatch::linear_forward(x, weight, precision),
        Some(bias) => {
            Dispatch::linear_with_bias_forward(x, weight, bias.into_dispatch(), precision)
        }
    })
}

/// Whether the native form can take these operands.
fn takes<const D: usize>(x: &Tensor<D>, weight: &Tensor<2>, bias: Option<&Tensor<1>>) -> bool {
    let activations = |dtype| matches!(dtype, DType::F32 | DType::BF16);
    let weights = |dtype| activations(dtype) || dtype == DType::F16;
    cpu::on_flex(x)
        && activations(x.dtype())
        && weights(weight.dtype())
        && bias.is_none_or(|bias| bias.dtype() == DType::F32 || bias.dtype() == x.dtype())
        && !weight.dims().contains(&0)
}
