//! The dense weight, a word of codes per unit.
#![allow(missing_docs, reason = "the macro makes items without documentation")]

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::Packed;
use super::decode::{Scales, decode, load_table};
use crate::cube::{empty, narrow, spread};

/// Units of a cube.
const UNITS: u32 = 256;

/// What a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Plan {
    /// Whether words are whole and lie in one block.
    whole: bool,
    int8: bool,
}

/// The numbers of a weight in f32, `[d_out, d_in]`.
pub(super) fn dequantize(weight: Packed<CubeBackend>) -> CubeTensor {
    let layout = weight.layout;
    let (per_word, numel) = (layout.per_word(), layout.d_out * layout.d_in);
    let client = weight.codes.client.clone();
    let shape = Shape::new([layout.d_out, layout.d_in]);
    let y = empty(&weight.codes, shape, DType::F32);
    let plan = Plan {
        whole: numel.is_multiple_of(per_word) && layout.block_size.is_multiple_of(per_word),
        int8: layout.int8,
    };
    let vector = if plan.whole { 4 } else { 1 };
    let words = numel.div_ceil(per_word);
    let (codes, codebook, scales) = weight.arguments();
    #[allow(unsafe_code, reason = "a launch without bounds checks")]
    // SAFETY: units past the last word end at once, and numbers past the last are not written.
    unsafe {
        kernel::launch_unchecked(
            &client,
            spread(words.div_ceil(UNITS as usize)),
            CubeDim::new_1d(UNITS),
            vector,
            codes,
            codebook,
            scales,
            y.clone().into_buffer_arg(),
            words,
            numel,
            plan,
        );
    }
    y
}

#[cube(launch_unchecked)]
fn kernel<N: Size>(
    codes: &[u32],
    codebook: &[f32],
    scales: &Scales,
    y: &mut [Vector<f32, N>],
    words: usize,
    numel: usize,
    #[comptime] plan: Plan,
) {
    let per_word = comptime!(if plan.int8 { 4usize } else { 8 });
    let table = load_table(codebook, plan.int8);
    let at = ABSOLUTE_POS;
    if at < words {
        let word = codes[at];
        let first = at * per_word;
        if comptime!(plan.whole) {
            let scale = scales.of(first);
            #[unroll]
            for q in 0..comptime!(per_word / 4) {
                let mut four = Vector::<f32, N>::empty();
                #[unroll]
                for j in 0..4usize {
                    let value = decode(word, comptime!(narrow(q * 4 + j)), &table, plan.int8);
                    four.insert(j, value * scale);
                }
                y[first / 4 + q] = four;
            }
        } else {
            #[unroll]
            for j in 0..per_word {
                if first + j < numel {
                    let value = decode(word, comptime!(narrow(j)), &table, plan.int8);
                    y[first + j] = Vector::new(value * scales.of(first + j));
                }
            }
        }
    }
}
