//! The same product where the processor has no instruction for it: operands rounded to bf16, and
//! widened again for the f32 product.

use std::ops::Range;

use gemm::Parallelism;
use half::bf16;
use rayon::prelude::*;

use super::left::{Left, Values};
use super::{Orientation, Output};
use crate::cpu::{Decode, Shared};
use crate::linear::matrix::{Matrix, product_into};

/// Columns of the product per task.
const COLUMNS: usize = 128;

/// Depths per decoded block.
const DEPTHS: usize = 512;

/// Writes `left` times `right` to `out`.
///
/// # Safety
/// As [`super::multiply`].
pub(super) unsafe fn product<D: Decode>(
    left: &Left<'_>,
    right: &D,
    orientation: Orientation,
    bias: Option<&[f32]>,
    out: Output,
) {
    let cols = match orientation {
        Orientation::Rows => right.shape()[0],
        Orientation::Columns => right.shape()[1],
    };
    let (rows, depth) = (left.rows, left.depth);
    let values = rounded(left);
    let stride = if left.transposed {
        [1, left.stride]
    } else {
        [left.stride, 1]
    };
    let left = Matrix::new(&values, [rows, depth], stride);
    (0..cols.div_ceil(COLUMNS)).into_par_iter().for_each_init(
        || (Vec::new(), Vec::new()),
        |(bits, block), task| {
            let first = task * COLUMNS;
            let count = COLUMNS.min(cols - first);
            let mut sums = vec![0.0; rows * count];
            if let Some(bias) = bias {
                for row in sums.chunks_exact_mut(count) {
                    row.copy_from_slice(&bias[first..first + count]);
                }
            }
            for start in (0..depth).step_by(DEPTHS) {
                let depths = start..(start + DEPTHS).min(depth);
                let part = first..first + count;
                let right = match orientation {
                    Orientation::Rows => {
                        decode(right, part, depths.clone(), bits, block).transposed()
                    }
                    Orientation::Columns => decode(right, depths.clone(), part, bits, block),
                };
                let left = left.columns(start, depths.len());
                let out = (sums.as_mut_ptr(), count);
                // SAFETY: the sums hold `rows` of `count` numbers.
                unsafe { product_into(left, right, out, true, Parallelism::None) };
            }
            for (row, sums) in sums.chunks_exact(count).enumerate() {
                // SAFETY: the columns `first..first + count` belong to this task alone.
                unsafe { write(sums, row * cols + first, out) };
            }
        },
    );
}

/// # Safety
/// `out` must be valid for writing as many values as `sums` has, from `at` on.
unsafe fn write(sums: &[f32], at: usize, out: Output) {
    // SAFETY: the caller vouches for the output.
    unsafe {
        match out {
            Output::F32(Shared(out)) => {
                std::ptr::copy_nonoverlapping(sums.as_ptr(), out.add(at), sums.len());
            }
            Output::Bf16(out) => {
                for (i, sum) in sums.iter().enumerate() {
                    out.at(at + i).write(bf16::from_f32(*sum));
                }
            }
        }
    }
}

/// All values behind the operand, rounded and widened again.
fn rounded(left: &Left<'_>) -> Vec<f32> {
    match left.values {
        Values::F32(values) => values
            .iter()
            .map(|&value| bf16::from_f32(value).to_f32())
            .collect(),
        Values::Bf16(values) => values.iter().map(|value| value.to_f32()).collect(),
    }
}

/// The part of the matrix as f32, row-major, in `block`.
fn decode<'a>(
    matrix: &impl Decode,
    rows: Range<usize>,
    cols: Range<usize>,
    bits: &mut Vec<u16>,
    block: &'a mut Vec<f32>,
) -> Matrix<'a> {
    let shape = [rows.len(), cols.len()];
    bits.resize(shape[0] * shape[1], 0);
    matrix.decode_bf16(rows, cols, bits);
    block.clear();
    block.extend(bits.iter().map(|&bits| bf16::from_bits(bits).to_f32()));
    Matrix::new(block, shape, [shape[1], 1])
}
