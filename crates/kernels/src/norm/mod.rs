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
pub(crate) use cube::{NormCubeGradients, NormCubeOps};

use crate::cpu;
use crate::precision::Precision;

/// The parts of a normalization that are not tensors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Norm {
    pub(crate) eps: f64,
    /// Whether the mean is subtracted.
    pub(crate) centred: bool,
    /// How the layers around it multiply: between those of bf16, x is kept in bf16.
    pub(crate) precision: Precision,
}

#[backend_extension(Flex, Autodiff)]
pub(crate) trait NormOps: Backend {
    fn norm_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        norm: Norm,
    ) -> FloatTensor<Self>;

    fn norm_with_bias_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        norm: Norm,
    ) -> FloatTensor<Self>;
}

impl NormOps for Flex {
    fn norm_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        norm: Norm,
    ) -> FloatTensor<Self> {
        flex::forward(x, weight, None, norm)
    }

    fn norm_with_bias_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        norm: Norm,
    ) -> FloatTensor<Self> {
        flex::forward(x, weight, Some(bias), norm)
    }
}

/// Root-mean-square normalization over the last dimension.
///
/// `y = x / √(mean(x²) + eps) · weight`, computed in f32 and rounded once to the dtype of `x`.
/// Gemma's variant is the same operation with `weight + 1`.
///
/// # Shapes
/// - `x`: `[.., d_model]`, `weight`: `[d_model]`
/// - returns the shape and dtype of `x`
///
/// # Panics
/// When `weight` does not have the length of the last dimension of `x`.
///
/// # Source
/// - Zhang and Sennrich 2019, Root Mean Square Layer Normalization, arXiv:1910.07467, eq. (4)
///
/// # Examples
/// ```
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::default();
/// let x = Tensor::<2>::from_floats([[3.0, 4.0], [0.0, 0.0]], &device);
/// let weight = Tensor::<1>::from_floats([1.0, 10.0], &device);
/// let y = flametune_kernels::rms_norm(x, weight, 1e-6).into_data();
/// // √((9 + 16) / 2) = 3.5355
/// y.assert_approx_eq::<f32>(&[[0.848_528, 11.313_708], [0.0, 0.0]].into(), Default::default());
/// ```
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    rms_norm_with(x, weight, eps, Precision::Full)
}

/// [`rms_norm`] between layers that multiply as `precision` says.
///
/// With [`Precision::Bf16`] the value is the same, and on the CPU the backward pass keeps x rounded
/// to bf16: half the memory, and gradients as exact as the products that they enter.
///
/// # Panics
/// As [`rms_norm`].
pub fn rms_norm_with<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    eps: f64,
    precision: Precision,
) -> Tensor<D> {
    let norm = Norm {
        eps,
        centred: false,
        precision,
    };
    self::norm(x, weight, None, norm)
}

/// Layer normalization over the last dimension.
///
/// `y = (x − mean(x)) / √(var(x) + eps) · weight + bias`, with the biased variance, computed in
/// f32 and rounded once to the dtype of `x`.
///
/// # Shapes
/// - `x`: `[.., d_model]`, `weight`, `bias`: `[d_model]`
/// - returns the shape and dtype of `x`
///
/// # Panics
/// When `weight` or `bias` does not have the length of the last dimension of `x`.
///
/// # Source
/// - Ba, Kiros and Hinton 2016, Layer Normalization, arXiv:1607.06450, eq. (4)
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
    self::norm(x, weight, bias, norm)
}

fn norm<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    bias: Option<Tensor<1>>,
    norm: Norm,
) -> Tensor<D> {
    let width = [x.dims()[D - 1]];
    assert_eq!(
        weight.dims(),
        width,
        "norm: the weight must match the last dimension of x"
    );
    if let Some(bias) = &bias {
        assert_eq!(
            bias.dims(),
            width,
            "norm: the bias must match the last dimension of x"
        );
    }
    if !(cpu::takes(&x) && cpu::takes(&weight) && bias.as_ref().is_none_or(cpu::takes)) {
        #[cfg(feature = "cube")]
        if cube::takes(&x, &weight, bias.as_ref()) {
            return cube::norm(x, weight, bias, norm);
        }
        return reference::norm(x, weight, bias, norm);
    }
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(match bias {
        None => Dispatch::norm_forward(x, weight, norm),
        Some(bias) => Dispatch::norm_with_bias_forward(x, weight, bias.into_dispatch(), norm),
    })
}
