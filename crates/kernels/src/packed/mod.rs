mod backward;
#[cfg(feature = "cube")]
mod cube;
mod decode;
mod flex;
mod format;
mod gemv;
#[cfg(target_arch = "x86_64")]
mod halves;
mod native;
mod quantize;
pub(crate) mod reference;
#[cfg(test)]
pub(crate) mod tests;
mod weight;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{DType, Tensor};
use burn_flex::Flex;

pub(crate) use flex::{forward, product_and, x_gradient};
pub use quantize::quantize_blocks;
pub use weight::{CodeFormat, PackedScales, PackedWeight};

use crate::cpu;
use crate::precision::Precision;
use native::Native;

/// The parts of a product that autodiff does not see.
#[derive(Debug, Clone)]
pub(crate) struct Product {
    weight: Native,
    precision: Precision,
}

impl Product {
    /// The product with a weight in this process's memory.
    pub(crate) fn of(weight: &PackedWeight, precision: Precision) -> Option<Self> {
        Native::of(weight).map(|weight| Self { weight, precision })
    }

    pub(crate) fn precision(&self) -> Precision {
        self.precision
    }
}

#[backend_extension(Flex, Autodiff)]
pub(crate) trait PackedOps: Backend {
    fn packed_forward(x: FloatTensor<Self>, product: Product) -> FloatTensor<Self>;

    fn packed_with_bias_forward(
        x: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        product: Product,
    ) -> FloatTensor<Self>;
}

impl PackedOps for Flex {
    fn packed_forward(x: FloatTensor<Self>, product: Product) -> FloatTensor<Self> {
        flex::forward(x, &product, None)
    }

    fn packed_with_bias_forward(
        x: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        product: Product,
    ) -> FloatTensor<Self> {
        flex::forward(x, &product, Some(bias))
    }
}

/// Linear map with a quantized weight: `y = x·dequantize(W)ᵀ + b`.
///
/// Differentiable in `x` and `bias`; the weight is frozen.
///
/// On the CPU the dense weight is never made, neither on the way forward nor on the way back, and
/// autodiff keeps no activations. Up to 16 rows stream through the codes, which become numbers in
/// registers, or, where bf16 pairs are multiplied, up to 32 rows through a few rows of the weight at
/// a time, decoded into the innermost cache; for more, panels of a few hundred rows and columns are decoded into each thread's
/// cache and multiplied there. The numbers of the weight are those of [`dequantize`], bit for bit,
/// rounded to bf16 if `precision` says so; only the order of sums differs from the reference.
/// For `dx = dy·W`, too, both operands are as `precision` says.
///
/// # Shapes
/// - `x`: `[.., d_in]`, `weight`: `[d_out, d_in]`, `bias`: `[d_out]`
/// - returns `[.., d_out]`, dtype of `x`
///
/// # Panics
/// When the last dimension of `x` is not `d_in`, or `bias` is not `[d_out]`.
///
/// # Source
/// - Dettmers et al. 2023, QLoRA, arXiv:2305.14314, §3, eq. (5)
/// - reference: bitsandbytes `autograd/_functions.py::MatMul4Bit`
pub fn packed_linear<const D: usize>(
    x: Tensor<D>,
    weight: &PackedWeight,
    bias: Option<Tensor<1>>,
    precision: Precision,
) -> Tensor<D> {
    let [d_out, d_in] = weight.shape();
    assert_eq!(
        x.dims()[D - 1],
        d_in,
        "packed_linear: last dimension of x must equal d_in of the weight"
    );
    if let Some(bias) = &bias {
        assert_eq!(bias.dims(), [d_out], "packed_linear: bias must be [d_out]");
    }
    #[cfg(feature = "cube")]
    if cube::takes(&x, weight) {
        return cube::packed_linear(x, weight, bias, precision);
    }
    if x.dtype() == DType::BF16 && cpu::on_flex(&x) {
        let (x, bias) = (x.cast(DType::F32), bias.map(|bias| bias.cast(DType::F32)));
        return packed_linear(x, weight, bias, Precision::Bf16).cast(DType::BF16);
    }
    if cpu::takes(&x)
        && bias.as_ref().is_none_or(cpu::takes)
        && let Some(product) = Product::of(weight, precision)
    {
        return native(x, product, bias);
    }
    reference::packed_linear(x, weight, bias, precision)
}

fn native<const D: usize>(x: Tensor<D>, product: Product, bias: Option<Tensor<1>>) -> Tensor<D> {
    let x = x.into_dispatch();
    Tensor::from_dispatch(match bias {
        None => Dispatch::packed_forward(x, product),
        Some(bias) => Dispatch::packed_with_bias_forward(x, bias.into_dispatch(), product),
    })
}

/// The numbers of a quantized weight in f32, `[d_out, d_in]`.
pub fn dequantize(weight: &PackedWeight) -> Tensor<2> {
    #[cfg(feature = "cube")]
    if cube::takes_weight(weight) {
        return cube::dequantize(weight);
    }
    let Some(native) = Native::of(weight) else {
        return reference::dequantize(weight);
    };
    let dense = Tensor::from_primitive::<Flex>(flex::dequantize(&native));
    if weight.codes().is_autodiff() {
        dense.autodiff()
    } else {
        dense
    }
}
