//! Products with few rows: one pass over the rows of the weight where they lie.
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
use super::left::{Left, Values};
use super::tile::{Line, bits, first, first32, words};
use crate::cpu::Decode;
use crate::simd::Avx512Bf16;

/// The most rows that go this way.
pub(super) const MAX_ROWS: usize = 32;

/// The most rows of x that meet a weight in one go.
const PART: usize = 8;

/// Rows of the weight per task: a multiple of every number of them that is met in one go.
const STEP: usize = 24;

/// Numbers of the weight that one task reads at least.
const TASK: usize = 32 * 1024;

/// Numbers that are decoded at a time, if a few rows have no more: half the innermost cache.
const DECODED_NUMBERS: usize = 12 * 1024;

/// Numbers between a weight in use and one being prefetched, along a row and on to the next.
const AHEAD: usize = 512;

/// The numbers that a register holds, and the multiple that rounded rows are padded to.
const LANES: usize = 32;

thread_local! {
    static DECODED: RefCell<Vec<u16>> = const { RefCell::new(Vec::new()) };
}

/// Writes `left` times the transpose of `right` to `out`.
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
    let rows = right.shape()[0];
    let stride = left.depth.next_multiple_of(LANES);
    let x = rounded(simd, left, stride);
    let strip = |rows: Range<usize>| {
        let strip = Strip {
            x: &x,
            stride,
            m: left.rows,
            depth: left.depth,
            cols: right.shape()[0],
            bias,
            out,
        };
        // SAFETY: the token proves the instructions, and no two strips have rows in common.
        unsafe { strip.run(right, rows) };
    };
    let per_task = TASK.div_ceil(left.depth.max(1)).next_multiple_of(STEP);
    if rows <= per_task {
        strip(0..rows);
    } else {
        (0..rows.div_ceil(per_task))
            .into_par_iter()
            .for_each(|task| {
                let start = task * per_task;
                strip(start..(start + per_task).min(rows));
            });
    }
}

/// The rows of `left` as bf16, `stride` numbers apart, padded with zeros.
pub(super) fn rounded(_simd: Avx512Bf16, left: &Left<'_>, stride: usize) -> Vec<Line> {
    let mut lines = vec![Line([0; 16]); left.rows * stride / LANES];
    for row in 0..left.rows {
        for at in (0..left.depth).step_by(LANES) {
            let n = LANES.min(left.depth - at);
            // SAFETY: the token proves the instructions; lanes past `n` are not accessed.
            lines[(row * stride + at) / LANES] = unsafe { line(left.from(row, at), n) };
        }
    }
    lines
}

/// # Safety
/// The processor must have AVX512-BF16, and there must be `n` values.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn line(values: Values<'_>, n: usize) -> Line {
    // SAFETY: lanes past `n` are not accessed; a line is 512 bits.
    unsafe {
        let words = match values {
            Values::F32(values) => {
                let low = _mm512_maskz_loadu_ps(first(n), values.as_ptr());
                let high = values.as_ptr().wrapping_add(16);
                let high = _mm512_maskz_loadu_ps(first(n - n.min(16)), high);
                words(_mm512_cvtne2ps_pbh(high, low))
            }
            Values::Bf16(values) => _mm512_maskz_loadu_epi16(first32(n), values.as_ptr().cast()),
        };
        std::mem::transmute(words)
    }
}

/// A product whose columns are made a few at a time.
struct Strip<'a> {
    x: &'a [Line],
    stride: usize,
    m: usize,
    depth: usize,
    cols: usize,
    bias: Option<&'a [f32]>,
    out: Output,
}

impl Strip<'_> {
    /// # Safety
    /// The processor must have AVX512-BF16; as [`product`] for the columns `rows`.
    unsafe fn run<D: Decode>(&self, right: &D, rows: Range<usize>) {
        // Parts of x of about equal size, and as many rows of the weight at a time as keep their
        // sums in registers and the adders busy.
        let parts = self.m.div_ceil(PART);
        let step = match self.m.div_ceil(parts.max(1)) {
            0 => return,
            1 | 2 => 8,
            3 | 4 => 6,
            5 | 6 => 4,
            _ => 3,
        };
        let meet = |w: Weight, far: bool| {
            for part in 0..parts {
                let x = part * self.m / parts..(part + 1) * self.m / parts;
                // SAFETY: the rows of the weight are there.
                unsafe {
                    if far && part == 0 {
                        self.few::<true>(x, w);
                    } else {
                        self.few::<false>(x, w);
                    }
                }
            }
        };
        if let Some((values, stride)) = right.bf16_rows() {
            for row in rows.clone().step_by(step) {
                let count = step.min(rows.end - row);
                let values = &values[row * stride..][..(count - 1) * stride + self.depth];
                let w = Weight {
                    from: values.as_ptr().cast(),
                    stride,
                    count,
                    row,
                };
                meet(w, true);
            }
            return;
        }
        let depth = self.depth;
        let many = (DECODED_NUMBERS / (step * depth).max(1)).max(1) * step;
        DECODED.with_borrow_mut(|decoded| {
            for first in rows.clone().step_by(many) {
                let last = (first + many).min(rows.end);
                decoded.resize((last - first) * depth, 0);
                right.decode_bf16(first..last, 0..depth, decoded);
                for row in (first..last).step_by(step) {
                    let w = Weight {
                        from: decoded[(row - first) * depth..].as_ptr(),
                        stride: depth,
                        count: step.min(last - row),
                        row,
                    };
                    meet(w, false);
                }
            }
        });
    }

    /// The rows `x` of x, at most [`PART`].
    ///
    /// # Safety
    /// The processor must have AVX512-BF16; `w` must be there.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn few<const FAR: bool>(&self, x: Range<usize>, w: Weight) {
        let first = x.start;
        // SAFETY: passed on unchanged.
        unsafe {
            match (x.len(), w.count) {
                (1, 8) => self.block::<8, 1, FAR>(first, w),
                (2, 8) => self.block::<8, 2, FAR>(first, w),
                (3, 6) => self.block::<6, 3, FAR>(first, w),
                (4, 6) => self.block::<6, 4, FAR>(first, w),
                (4, 4) => self.block::<4, 4, FAR>(first, w),
                (5, 4) => self.block::<4, 5, FAR>(first, w),
                (6, 4) => self.block::<4, 6, FAR>(first, w),
                (6, 3) => self.block::<3, 6, FAR>(first, w),
                (7, 3) => self.block::<3, 7, FAR>(first, w),
                (8, 3) => self.block::<3, 8, FAR>(first, w),
                _ => {
                    for r in 0..w.count {
                        let w = Weight {
                            from: w.from.add(r * w.stride),
                            row: w.row + r,
                            ..w
                        };
                        for m in x.clone() {
                            self.block::<1, 1, FAR>(m, w);
                        }
                    }
                }
            }
        }
    }

    /// `R` rows of the weight, which are in no cache if they are `FAR`, and the rows `m..m + M` of x,
    /// at most [`SUMS`] sums.
    ///
    /// # Safety
    /// As [`few`](Self::few).
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn block<const R: usize, const M: usize, const FAR: bool>(&self, m: usize, w: Weight) {
        let mut sums = [[_mm512_setzero_ps(); M]; R];
        let lines = self.stride / LANES;
        let rest = self.depth % LANES;
        // SAFETY: reads stay below `depth`, and writes inside the output.
        unsafe {
            let x = self.x.as_ptr().add(m * lines);
            for at in (0..self.depth - rest).step_by(LANES) {
                let ahead = if at + AHEAD < self.depth {
                    AHEAD
                } else {
                    (R * w.stride + AHEAD).saturating_sub(self.depth)
                };
                let mut xs = [bits(_mm512_setzero_si512()); M];
                for i in 0..M {
                    xs[i] = bits(_mm512_load_si512(x.add(i * lines + at / LANES).cast()));
                }
                for r in 0..R {
                    let from = w.from.add(r * w.stride + at);
                    if FAR {
                        _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(ahead).cast());
                    }
                    let row = bits(_mm512_loadu_si512(from.cast()));
                    for i in 0..M {
                        sums[r][i] = _mm512_dpbf16_ps(sums[r][i], row, xs[i]);
                    }
                }
            }
            if rest > 0 {
                let at = self.depth - rest;
                for r in 0..R {
                    let from = w.from.add(r * w.stride + at);
                    let row = bits(_mm512_maskz_loadu_epi16(first32(rest), from.cast()));
                    for i in 0..M {
                        let x = bits(_mm512_load_si512(x.add(i * lines + at / LANES).cast()));
                        sums[r][i] = _mm512_dpbf16_ps(sums[r][i], row, x);
                    }
                }
            }
            let totals = totals(&sums);
            for r in 0..R {
                let bias = self.bias.map_or(0.0, |bias| bias[w.row + r]);
                for i in 0..M {
                    let sum = totals[place(r * M + i)] + bias;
                    let at = (m + i) * self.cols + w.row + r;
                    match self.out {
                        Output::F32(out) => out.at(at).write(sum),
                        Output::Bf16(out) => out.at(at).write(bf16::from_f32(sum)),
                    }
                }
            }
        }
    }
}

/// The most registers of sums.
const SUMS: usize = 32;

/// The sum of all lanes of each register, register `i` at [`place`]`(i)`; each in the same order,
/// neighbours of neighbours last, wherever the register stands.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
#[inline]
fn totals<const R: usize, const M: usize>(sums: &[[__m512; M]; R]) -> [f32; SUMS] {
    const { assert!(R * M <= SUMS) };
    let mut totals = [0.0; SUMS];
    for (half, to) in totals.chunks_exact_mut(16).enumerate() {
        if half * 16 >= R * M {
            break;
        }
        let mut sixteen = [_mm512_setzero_ps(); 16];
        for i in 0..16 {
            let at = 16 * half + i;
            if at < R * M {
                sixteen[i] = sums[at / M][at % M];
            }
        }
        let mut eight = [_mm512_setzero_ps(); 8];
        for i in 0..8 {
            let (a, b) = (sixteen[i], sixteen[i + 8]);
            let low = _mm512_shuffle_f32x4::<0x44>(a, b);
            eight[i] = _mm512_add_ps(low, _mm512_shuffle_f32x4::<0xee>(a, b));
        }
        let mut four = [_mm512_setzero_ps(); 4];
        for i in 0..4 {
            let (a, b) = (eight[i], eight[i + 4]);
            let even = _mm512_shuffle_f32x4::<0x88>(a, b);
            four[i] = _mm512_add_ps(even, _mm512_shuffle_f32x4::<0xdd>(a, b));
        }
        let mut two = [_mm512_setzero_ps(); 2];
        for i in 0..2 {
            let (a, b) = (four[i], four[i + 2]);
            let low = _mm512_shuffle_ps::<0x44>(a, b);
            two[i] = _mm512_add_ps(low, _mm512_shuffle_ps::<0xee>(a, b));
        }
        let even = _mm512_shuffle_ps::<0x88>(two[0], two[1]);
        let one = _mm512_add_ps(even, _mm512_shuffle_ps::<0xdd>(two[0], two[1]));
        // SAFETY: a chunk has sixteen numbers.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), one) };
    }
    totals
}

/// Where [`totals`] has the sum of register `i`.
const fn place(i: usize) -> usize {
    // Two bits each, their halves swapped.
    const SWAPPED: [usize; 4] = [0, 2, 1, 3];
    i / 16 * 16 + SWAPPED[i / 4 % 4] * 4 + SWAPPED[i % 4]
}

/// `count` rows of the weight, the first of them `row`.
#[derive(Debug, Clone, Copy)]
struct Weight {
    from: *const u16,
    stride: usize,
    count: usize,
    row: usize,
}
