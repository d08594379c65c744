//! The products with a packed weight on the devices that CubeCL reaches.

mod backward;
mod decode;
mod dequantize;
mod gemv;
mod multiply;
#[cfg(test)]
mod tests;
mod tiled;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, ExtensionType, TensorMetadata, backend_extension};
use burn::tensor::{DType, Shape, Tensor};
use burn_cubecl::CubeBackend;
use cubecl::prelude::BufferArg;

use super::weight::{CodeFormat, PackedScales, PackedWeight};
use crate::cube;
use crate::precision::Precision;
use decode::ScalesLaunch;

/// The parts of a packed weight that are not tensors, and which way it is multiplied.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Layout {
    d_out: usize,
    d_in: usize,
    int8: bool,
    block_size: usize,
    /// The scales that share a scale, if they are quantized in turn.
    nested_block_size: Option<usize>,
    offset: f32,
    precision: Precision,
    /// `x·W` instead of `x·Wᵀ`.
    transposed: bool,
}

impl Layout {
    /// Codes in a word of 32 bits.
    fn per_word(&self) -> usize {
        if self.int8 { 4 } else { 8 }
    }

    /// The widths of x and of the product.
    fn sides(&self) -> [usize; 2] {
        if self.transposed {
            [self.d_out, self.d_in]
        } else {
            [self.d_in, self.d_out]
        }
    }

    fn product_shape(&self, x: &Shape) -> Shape {
        Shape::new([x[0], self.sides()[1]])
    }
}

/// A packed weight as a backend sees it; parts that its format lacks repeat another.
#[derive(Debug, Clone, ExtensionType)]
#[extension_type(fusion)]
pub(crate) struct Packed<B: Backend> {
    pub(crate) codes: IntTensor<B>,
    pub(crate) codebook: FloatTensor<B>,
    pub(crate) absmax: FloatTensor<B>,
    pub(crate) nested: IntTensor<B>,
    pub(crate) map: FloatTensor<B>,
    pub(crate) layout: Layout,
}

impl<B: Backend> Packed<B> {
    fn transposed(mut self) -> Self {
        self.layout.transposed = !self.layout.transposed;
        self
    }
}

impl Packed<CubeBackend> {
    /// Codes, codebook and scales as arguments of a kernel.
    fn arguments(self) -> (BufferArg, BufferArg, ScalesLaunch) {
        let layout = self.layout;
        let scales = ScalesLaunch::new(
            cube::rows(self.absmax),
            cube::rows(self.nested),
            cube::rows(self.map),
            layout.offset,
            layout.block_size,
            layout.nested_block_size.unwrap_or(1),
            layout.nested_block_size.is_some(),
            layout.int8,
        );
        (cube::rows(self.codes), cube::rows(self.codebook), scales)
    }
}

#[backend_extension(Cube, Autodiff, Fusion)]
pub(crate) trait PackedCubeOps: Backend {
    #[fusion(dtype = x, shape = weight.layout.product_shape(x))]
    fn packed_cube_product(
        x: FloatTensor<Self>,
        #[extension_type] weight: Packed<Self>,
    ) -> FloatTensor<Self>;

    #[fusion(dtype = DType::F32, shape = Shape::new([weight.layout.d_out, weight.layout.d_in]))]
    fn packed_cube_dense(#[extension_type] weight: Packed<Self>) -> FloatTensor<Self>;
}

impl PackedCubeOps for CubeBackend {
    fn packed_cube_product(x: FloatTensor<Self>, weight: Packed<Self>) -> FloatTensor<Self> {
        if x.shape()[0] <= gemv::MAX_ROWS && gemv::fits(&weight.layout) {
            gemv::product(x, weight)
        } else {
            tiled::product(x, weight)
        }
    }

    fn packed_cube_dense(weight: Packed<Self>) -> FloatTensor<Self> {
        dequantize::dequantize(weight)
    }
}

/// Whether the kernels take a product of `x`, where it lives.
pub(super) fn takes<const D: usize>(x: &Tensor<D>, weight: &PackedWeight) -> bool {
    let [d_out, d_in] = weight.shape();
    let rows = x.shape().num_elements() / d_in.max(1);
    cube::takes(x)
        && addressable(weight)
        && fits_u32(rows.saturating_mul(d_out))
        && [rows, d_out, d_in].into_iter().all(tiled::fits)
}

/// Whether the kernels take a weight alone.
pub(super) fn takes_weight(weight: &PackedWeight) -> bool {
    addressable(weight) && cube::device(&weight.codes().device()).is_some()
}

/// Whether there is something to do, with indices of 32 bits.
fn addressable(weight: &PackedWeight) -> bool {
    weight.numel() > 0 && fits_u32(weight.numel())
}

fn fits_u32(count: usize) -> bool {
    u32::try_from(count).is_ok()
}

/// See [`packed_linear`](super::packed_linear).
pub(super) fn packed_linear<const D: usize>(
    x: Tensor<D>,
    weight: &PackedWeight,
    bias: Option<Tensor<1>>,
    precision: Precision,
) -> Tensor<D> {
    let (dtype, mut shape) = (x.dtype(), x.shape());
    let [d_out, d_in] = weight.shape();
    let x = x.reshape([shape.num_elements() / d_in, d_in]);
    let y = Dispatch::packed_cube_product(x.into_dispatch(), parts(weight, precision));
    let mut y = Tensor::<2>::from_dispatch(y);
    if let Some(bias) = bias {
        y = y + bias.cast(dtype).reshape([1, d_out]);
    }
    shape[D - 1] = d_out;
    y.reshape(shape)
}

/// See [`dequantize`](super::dequantize).
pub(super) fn dequantize(weight: &PackedWeight) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::packed_cube_dense(parts(weight, Precision::Full)))
}

fn parts(weight: &PackedWeight, precision: Precision) -> Packed<Dispatch> {
    let [d_out, d_in] = weight.shape();
    let codes = weight.codes().clone();
    let (absmax, nested, map, offset, nested_block_size) = match weight.scales() {
        PackedScales::Absmax(absmax) => (absmax, &codes, absmax, 0.0, None),
        PackedScales::Nested {
            codes,
            map,
            absmax,
            offset,
            block_size,
        } => (absmax, codes, map, *offset, Some(*block_size)),
    };
    let codebook = match weight.format() {
        CodeFormat::FourBit { codebook } => codebook,
        CodeFormat::Int8 => absmax,
    };
    Packed {
        codebook: codebook.clone().into_dispatch(),
        absmax: absmax.clone().into_dispatch(),
        nested: nested.clone().into_dispatch(),
        map: map.clone().into_dispatch(),
        layout: Layout {
            d_out,
            d_in,
            int8: matches!(weight.format(), CodeFormat::Int8),
            block_size: weight.block_size(),
            nested_block_size,
            offset,
            precision,
            transposed: false,
        },
        codes: codes.into_dispatch(),
    }
}
