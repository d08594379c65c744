//! Products of few rows with the columns of the weight: one pass over its rows where they lie.
#![allow(
    clippy::needless_range_loop,
    reason = "an index addresses registers and memory alike"
)]

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use super::Output;
use super::dot::rounded;
use super::left::Left;
use super::tile::{Line, bits, first32};
use crate::cpu::Decode;
use crate::simd::Avx512Bf16;

/// The most rows that go this way.
pub(super) const MAX_ROWS: usize = 8;

/// Rows of the weight met in one go, four pairs of depths.
const GROUP: usize = 8;

/// Rows of the weight decoded at a time.
const ROWS: usize = 4 * GROUP;

/// Columns of a task: a row's part of them stays in the innermost cache.
const COLUMNS: [usize; 2] = [128, 512];

/// Multiplications from which a product is worth waking the other threads.
const PARALLEL: usize = 64 * 64 * 64;

/// Numbers in a register.
const LANES: usize = 32;

thread_local! {
    static BUFFERS: RefCell<(Vec<f32>, Vec<u16>)> = RefCell::default();
}

/// Writes `left` times `right`, each column of which makes a column of the product, to `out`.
///
/// # Safety
/// As [`super::multiply`]; `left` has at most [`MAX_ROWS`] rows and is not transposed.
pub(super) unsafe fn product<D: Decode>(
    simd: Avx512Bf16,
    left: &Left<'_>,
    right: &D,
    bias: Option<&[f32]>,
    out: Output,
) {
    let cols = right.shape()[1];
    let stride = left.depth.next_multiple_of(LANES);
    let x = rounded(simd, left, stride);
    let strip = Strip {
        x: &x,
        lines: stride / LANES,
        m: left.rows,
        depth: left.depth,
        cols,
        bias,
        out,
    };
    let width = if cols < 4 * COLUMNS[1] {
        COLUMNS[0]
    } else {
        COLUMNS[1]
    };
    let task = |index: usize| {
        let part = index * width..((index + 1) * width).min(cols);
        // SAFETY: the token proves the instructions, and no two tasks have columns in common.
        unsafe { strip.run(right, part) };
    };
    let tasks = cols.div_ceil(width);
    if tasks == 1 || left.rows * left.depth * cols < PARALLEL {
        (0..tasks).for_each(task);
    } else {
        (0..tasks).into_par_iter().for_each(task);
    }
}

/// A product whose columns are made some hundred at a time.
struct Strip<'a> {
    /// Rows of pairs of depths.
    x: &'a [Line],
    lines: usize,
    m: usize,
    depth: usize,
    cols: usize,
    bias: Option<&'a [f32]>,
    out: Output,
}

impl Strip<'_> {
    /// # Safety
    /// The processor must have AVX512-BF16; as [`product`] for the columns `part`.
    unsafe fn run<D: Decode>(&self, right: &D, part: Range<usize>) {
        let padded = part.len().next_multiple_of(LANES);
        BUFFERS.with_borrow_mut(|(sums, decoded)| {
            sums.clear();
            sums.resize(self.m * padded, 0.0);
            for start in (0..self.depth).step_by(ROWS) {
                let rows = start..(start + ROWS).min(self.depth);
                let (from, stride) = match right.bf16_rows() {
                    Some((values, stride)) => {
                        let values = &values[rows.start * stride + part.start..]
                            [..(rows.len() - 1) * stride + part.len()];
                        (values.as_ptr().cast::<u16>(), stride)
                    }
                    None => {
                        decoded.resize(rows.len() * part.len(), 0);
                        right.decode_bf16(rows.clone(), part.clone(), decoded);
                        (decoded.as_ptr(), part.len())
                    }
                };
                for row in (0..rows.len()).step_by(GROUP) {
                    let group = Group {
                        from: from.wrapping_add(row * stride),
                        stride,
                        count: GROUP.min(rows.len() - row),
                        row: start + row,
                        width: part.len(),
                    };
                    // SAFETY: the rows are there, and the sums have room for all columns.
                    unsafe { self.add(group, sums.as_mut_ptr(), padded) };
                }
            }
            for (row, sums) in sums.chunks_exact(padded.max(1)).enumerate() {
                for (col, sum) in part.clone().zip(sums) {
                    let sum = sum + self.bias.map_or(0.0, |bias| bias[col]);
                    // SAFETY: a row and a column of the product.
                    unsafe {
                        match self.out {
                            Output::F32(out) => out.at(row * self.cols + col).write(sum),
                            Output::Bf16(out) => {
                                out.at(row * self.cols + col).write(bf16::from_f32(sum));
                            }
                        }
                    }
                }
            }
        });
    }

    /// Adds the products with a group of rows to the sums.
    ///
    /// # Safety
    /// The processor must have AVX512-BF16; the group must be there, and `sums` have `m` rows of
    /// `stride`, a multiple of [`LANES`] that is no less than the group's width.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn add(&self, group: Group, sums: *mut f32, stride: usize) {
        // SAFETY: passed on unchanged.
        unsafe {
            match self.m {
                0 => {}
                1 => self.add_rows::<1>(group, sums, stride),
                2 => self.add_rows::<2>(group, sums, stride),
                3 => self.add_rows::<3>(group, sums, stride),
                4 => self.add_rows::<4>(group, sums, stride),
                5 => self.add_rows::<5>(group, sums, stride),
                6 => self.add_rows::<6>(group, sums, stride),
                7 => self.add_rows::<7>(group, sums, stride),
                _ => self.add_rows::<MAX_ROWS>(group, sums, stride),
            }
        }
    }

    /// # Safety
    /// As [`add`](Self::add), for `M` rows.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn add_rows<const M: usize>(&self, group: Group, sums: *mut f32, stride: usize) {
        // Number `i` of one row, then of the next, for the lower and the upper sixteen.
        let low = _mm512_set_epi16(
            47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36,
            4, 35, 3, 34, 2, 33, 1, 32, 0,
        );
        let high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
        let mut xs = [[0u32; GROUP / 2]; M];
        for m in 0..M {
            for p in 0..GROUP / 2 {
                // Past the last depth there are zeros.
                let pair = group.row / 2 + p;
                if 2 * p < group.count {
                    xs[m][p] = self.x[m * self.lines + pair / 16].0[pair % 16];
                }
            }
        }
        // SAFETY: lanes past the width are not accessed, sums are padded; a prefetch reads
        // nothing as far as the program can tell.
        unsafe {
            for col in (0..group.width).step_by(LANES) {
                let mask = first32(group.width - col);
                let mut found = [[_mm512_setzero_ps(); 2]; M];
                for m in 0..M {
                    for half in 0..2 {
                        found[m][half] = _mm512_loadu_ps(sums.add(m * stride + col + 16 * half));
                    }
                }
                for p in 0..GROUP / 2 {
                    let row = |r: usize| {
                        if r < group.count {
                            let from = group.from.add(r * group.stride + col);
                            let next = from.wrapping_add(GROUP * group.stride);
                            _mm_prefetch::<_MM_HINT_T0>(next.cast());
                            _mm512_maskz_loadu_epi16(mask, from.cast())
                        } else {
                            _mm512_setzero_si512()
                        }
                    };
                    let (even, odd) = (row(2 * p), row(2 * p + 1));
                    let pairs = [
                        bits(_mm512_permutex2var_epi16(even, low, odd)),
                        bits(_mm512_permutex2var_epi16(even, high, odd)),
                    ];
                    for m in 0..M {
                        let x = bits(_mm512_set1_epi32(xs[m][p].cast_signed()));
                        for half in 0..2 {
                            found[m][half] = _mm512_dpbf16_ps(found[m][half], x, pairs[half]);
                        }
                    }
                }
                for m in 0..M {
                    for half in 0..2 {
                        _mm512_storeu_ps(sums.add(m * stride + col + 16 * half), found[m][half]);
                    }
                }
            }
        }
    }
}

/// `count` rows of the weight from row `row` on, `width` columns of them.
#[derive(Debug, Clone, Copy)]
struct Group {
    from: *const u16,
    stride: usize,
    count: usize,
    row: usize,
    width: usize,
}
