//! A word of codes per unit.
#![allow(missing_docs, reason = "the macro makes items without documentation")]

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{DType, Int, Shape, Tensor};
use burn_cubecl::CubeBackend;
use cubecl::prelude::*;

use super::{CodeFormat, LEAST_ABSMAX};
use crate::cube::{self, narrow};

/// Units of a cube.
const UNITS: u32 = 256;

#[backend_extension(Cube, Autodiff, Fusion)]
pub(crate) trait QuantizeCubeOps: Backend {
    #[fusion(
        dtype = DType::U32,
        shape = Shape::new([numbers.num_elements().div_ceil(per_word(*int8))])
    )]
    fn quantize_cube(
        numbers: FloatTensor<Self>,
        absmax: FloatTensor<Self>,
        codebook: FloatTensor<Self>,
        block_size: usize,
        int8: bool,
    ) -> IntTensor<Self>;
}

fn per_word(int8: bool) -> usize {
    if int8 { 4 } else { 8 }
}

impl QuantizeCubeOps for CubeBackend {
    fn quantize_cube(
        numbers: FloatTensor<Self>,
        absmax: FloatTensor<Self>,
        codebook: FloatTensor<Self>,
        block_size: usize,
        int8: bool,
    ) -> IntTensor<Self> {
        let client = numbers.client.clone();
        let numel = numbers.shape().num_elements();
        let words = numel.div_ceil(per_word(int8));
        let codes = cube::empty(&numbers, Shape::new([words]), DType::U32);
        #[allow(unsafe_code, reason = "a launch without bounds checks")]
        // SAFETY: units past the last word do nothing, numbers past the last are not read, and
        // every number's block has a scale.
        unsafe {
            kernel::launch_unchecked(
                &client,
                cube::spread(words.div_ceil(UNITS as usize)),
                CubeDim::new_1d(UNITS),
                cube::rows(numbers),
                cube::rows(absmax),
                cube::rows(codebook),
                codes.clone().into_buffer_arg(),
                words,
                numel,
                block_size,
                int8,
            );
        }
        codes
    }
}

/// Codes have no gradient.
impl<B: QuantizeCubeOps, C: CheckpointStrategy> QuantizeCubeOps for Autodiff<B, C> {
    fn quantize_cube(
        numbers: FloatTensor<Self>,
        absmax: FloatTensor<Self>,
        codebook: FloatTensor<Self>,
        block_size: usize,
        int8: bool,
    ) -> IntTensor<Self> {
        let [numbers, absmax, codebook] =
            [numbers, absmax, codebook].map(|tensor| tensor.into_parts().0);
        B::quantize_cube(numbers, absmax, codebook, block_size, int8)
    }
}

/// Whether the kernel takes the numbers, in f32.
pub(super) fn takes(numbers: &Tensor<2>) -> bool {
    cube::takes(numbers)
}

/// The packed codes.
pub(super) fn codes(
    numbers: Tensor<2>,
    absmax: &Tensor<1>,
    block_size: usize,
    format: &CodeFormat,
) -> Tensor<1, Int> {
    let (codebook, int8) = match format {
        CodeFormat::FourBit { codebook } => (codebook, false),
        CodeFormat::Int8 => (absmax, true),
    };
    Tensor::from_dispatch(Dispatch::quantize_cube(
        numbers.into_dispatch(),
        absmax.clone().into_dispatch(),
        codebook.clone().into_dispatch(),
        block_size,
        int8,
    ))
}

#[cube(launch_unchecked)]
fn kernel(
    numbers: &[f32],
    absmax: &[f32],
    codebook: &[f32],
    codes: &mut [u32],
    words: usize,
    numel: usize,
    block_size: usize,
    #[comptime] int8: bool,
) {
    let per_word = comptime!(if int8 { 4usize } else { 8 });
    let mut sorted = Shared::<[f32]>::new_slice(16usize);
    let mut order = Shared::<[u32]>::new_slice(16usize);
    if comptime!(!int8) {
        sort(codebook, &mut sorted, &mut order);
    }
    let at = ABSOLUTE_POS;
    if at < words {
        let mut word = 0u32;
        #[unroll]
        for j in 0..per_word {
            let index = at * per_word + j;
            if index < numel {
                let x = numbers[index];
                let block = index / block_size;
                let scale = absmax[block];
                if comptime!(int8) {
                    word |= (encode_int8(x, scale) & 0xff) << comptime!(8 * narrow(j));
                } else {
                    let divisor = f32::max(scale, comptime!(LEAST_ABSMAX).runtime());
                    let full = (block + 1) * block_size <= numel;
                    let scaled = select(full, x * (1.0 / divisor), x / divisor);
                    let mut place = 0u32;
                    #[unroll]
                    for b in 0..15usize {
                        let bound = (sorted[b] + sorted[b + 1]) / 2.0;
                        place += u32::cast_from(bound < scaled);
                    }
                    word |= order[place as usize] << comptime!(4 * (narrow(j) ^ 1));
                }
            }
        }
        codes[at] = word;
    }
}

/// The 16 entries in ascending order, and their codes.
#[cube]
fn sort(codebook: &[f32], sorted: &mut Shared<[f32]>, order: &mut Shared<[u32]>) {
    if UNIT_POS < 16 {
        let own = codebook[UNIT_POS as usize];
        let mut place = 0u32;
        for j in 0..16u32 {
            let other = codebook[j as usize];
            place += u32::cast_from(other < own || (other == own && j < UNIT_POS));
        }
        sorted[place as usize] = own;
        order[place as usize] = UNIT_POS;
    }
    sync_cube();
}

#[cube]
fn encode_int8(x: f32, absmax: f32) -> u32 {
    let scale = 127.0 / f32::max(absmax, comptime!(f32::MIN_POSITIVE).runtime());
    // Below this the scale overflows.
    let divisor = select(absmax == 0.0, 1.0, absmax);
    let small = absmax < comptime!(127.0 / f32::MAX);
    let scaled = select(small, x / divisor * 127.0, x * scale);
    u32::cast_from(i32::cast_from(scaled.round()))
}
