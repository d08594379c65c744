//! Products with few rows: a stream of codes, each of them a number only in a register.
#![allow(
    unsafe_code,
    reason = "inner loops over raw rows, bounds checked once per call"
)]

use std::ops::Range;

use rayon::prelude::*;

use super::decode::decode_run;
use super::format::{Format, Visit};
use super::native::View;
use crate::cpu::{Rows, Shared};
use crate::simd::{Kernel, Simd, dispatch, dot_rows};

/// The rows of `x` that one pass over the codes serves.
const PASS: usize = 8;

/// Bytes between codes in use and those being prefetched.
const AHEAD: usize = 2 * 1024;

/// Numbers of the weight that one task decodes at least.
const TASK: usize = 128 * 1024;

/// A multiple of `2·LANES` of every instruction set.
const STEP: usize = 32;

/// Numbers of a row between two looks at the end of a piece, where there are so many.
const UNROLLED: usize = 2 * STEP;

/// `y = x·Wᵀ + b` in passes of up to [`PASS`] rows.
pub(super) fn gemv(x: &Rows, weight: &View<'_>, bias: Option<&[f32]>) -> Vec<f32> {
    let [d_out, d_in] = weight.shape;
    assert!(x.width() == d_in && bias.is_none_or(|bias| bias.len() == d_out));
    let mut y = Vec::<f32>::with_capacity(x.rows() * d_out);
    weight.visit(Product {
        x,
        weight,
        bias,
        out: Shared(y.as_mut_ptr()),
    });
    // SAFETY: the capacity suffices, and the product wrote all columns of all rows.
    unsafe { y.set_len(x.rows() * d_out) };
    y
}

#[derive(Clone, Copy)]
struct Product<'a> {
    x: &'a Rows,
    weight: &'a View<'a>,
    bias: Option<&'a [f32]>,
    /// Room for `x.rows()` rows of `d_out` values.
    out: Shared,
}

impl Visit for Product<'_> {
    type Output = ();
    fn visit<F: Format>(self, format: F) {
        dispatch(Typed {
            product: self,
            format,
        });
    }
}

struct Typed<'a, F> {
    product: Product<'a>,
    format: F,
}

impl<F: Format> Kernel for Typed<'_, F> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { product, format } = self;
        let [d_out, d_in] = product.weight.shape;
        // The longest pieces that all rows are made of and that no block's end cuts.
        let piece = greatest_common_divisor(d_in, product.weight.block_size);
        let piece = (piece.is_multiple_of(STEP) && piece > 0).then_some(piece);
        let x = lay_out::<S, F>(product.x, product.weight.rounded, piece.is_some());
        let task = |rows: Range<usize>| {
            s.call(Strip {
                product,
                format,
                x: &x,
                rows,
                piece,
            });
        };
        let per_task = TASK.div_ceil(d_in.max(1)).next_multiple_of(PASS);
        if d_out <= per_task {
            task(0..d_out);
        } else {
            (0..d_out.div_ceil(per_task))
                .into_par_iter()
                .for_each(|index| {
                    let first = index * per_task;
                    task(first..(first + per_task).min(d_out));
                });
        }
    }
}

fn greatest_common_divisor(mut a: usize, mut b: usize) -> usize {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// The rows of `x` side by side, with rows of zeros up to a number that [`Strip`] has code for;
/// rounded like the weight, and for whole registers in the order of [`Format::place`].
fn lay_out<S: Simd, F: Format>(x: &Rows, rounded: bool, in_place: bool) -> Vec<f32> {
    let (m, k, step) = (x.rows(), x.width(), 2 * S::LANES);
    let padded = m - m % PASS + padded(m % PASS);
    let mut out = vec![0.0; padded * k];
    let data = x.data::<f32>();
    for row in 0..m {
        let from = &data[row * x.stride()..][..k];
        let to = &mut out[row * k..][..k];
        if in_place {
            for (from, to) in from.chunks_exact(step).zip(to.chunks_exact_mut(step)) {
                for (at, &value) in from.iter().enumerate() {
                    to[F::place(at, S::LANES)] = value;
                }
            }
        } else {
            to.copy_from_slice(from);
        }
        if rounded {
            for value in to {
                *value = half::bf16::from_f32(*value).to_f32();
            }
        }
    }
    out
}

/// The least number of rows, `rows` or more, that [`Strip`] has code for.
fn padded(rows: usize) -> usize {
    match rows {
        0..=2 => rows,
        3..=4 => 4,
        _ => PASS,
    }
}

/// The outputs `rows` of the weight, for all rows of `x`.
struct Strip<'a, F> {
    product: Product<'a>,
    format: F,
    x: &'a [f32],
    rows: Range<usize>,
    piece: Option<usize>,
}

impl<F: Format> Kernel for Strip<'_, F> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let d_in = self.product.weight.shape[1];
        let m = self.product.x.rows();
        let mut scratch = Vec::new();
        let scales = self.piece.map(|piece| self.scales(piece, &mut scratch));
        let mut decoded = vec![0.0; if scales.is_none() { d_in } else { 0 }];
        for first in (0..m).step_by(PASS) {
            let pass = Pass {
                strip: &self,
                x: &self.x[first * d_in..],
                first,
                rows: PASS.min(m - first),
            };
            if let (Some(scales), Some(piece)) = (scales, self.piece) {
                // As many weight rows at a time as keep the sums in registers and the adders busy.
                match padded(pass.rows) {
                    1 => pass.columns::<S, 8, 1>(s, piece, scales),
                    2 => pass.columns::<S, 4, 2>(s, piece, scales),
                    4 => pass.columns::<S, 4, 4>(s, piece, scales),
                    _ => pass.columns::<S, 2, 8>(s, piece, scales),
                }
            } else {
                for row in self.rows.clone() {
                    let at = row * d_in;
                    decode_run(s, self.product.weight, self.format, at, &mut decoded);
                    match padded(pass.rows) {
                        1 => pass.decoded::<S, 1>(s, row, &decoded),
                        2 => pass.decoded::<S, 2>(s, row, &decoded),
                        4 => pass.decoded::<S, 4>(s, row, &decoded),
                        _ => pass.decoded::<S, 8>(s, row, &decoded),
                    }
                }
            }
        }
    }
}

impl<F: Format> Strip<'_, F> {
    /// The scale of every piece of these rows.
    fn scales<'s>(&'s self, piece: usize, scratch: &'s mut Vec<f32>) -> &'s [f32] {
        let weight = self.product.weight;
        let d_in = weight.shape[1];
        let (start, end) = (self.rows.start * d_in, self.rows.end * d_in);
        let first = start / weight.block_size;
        let blocks = end.div_ceil(weight.block_size) - first;
        if piece == weight.block_size
            && let super::native::Scales::Absmax(absmax) = weight.scales
        {
            return &absmax[first..][..blocks];
        }
        scratch.resize(blocks, 0.0);
        weight.scales.read(first, scratch);
        if piece != weight.block_size {
            let of_piece = |at: usize| scratch[at / weight.block_size - first];
            *scratch = (start..end).step_by(piece).map(of_piece).collect();
        }
        scratch
    }
}

/// Up to [`PASS`] rows of `x` that go over the codes together.
struct Pass<'a, F> {
    strip: &'a Strip<'a, F>,
    x: &'a [f32],
    first: usize,
    rows: usize,
}

impl<F: Format> Pass<'_, F> {
    #[inline(always)]
    fn columns<S: Simd, const R: usize, const M: usize>(&self, s: S, piece: usize, scales: &[f32]) {
        let Range { start, end } = self.strip.rows;
        let mut row = start;
        while row + R <= end {
            self.block::<S, R, M>(s, row, piece, scales);
            row += R;
        }
        while row < end {
            self.block::<S, 1, M>(s, row, piece, scales);
            row += 1;
        }
    }

    /// Outputs `row..row + R`.
    #[inline(always)]
    fn block<S: Simd, const R: usize, const M: usize>(
        &self,
        s: S,
        row: usize,
        piece: usize,
        scales: &[f32],
    ) {
        let weight = self.strip.product.weight;
        let k = weight.shape[1];
        let (pieces, bytes) = (k / piece, k / F::PER_BYTE);
        let scales = &scales[(row - self.strip.rows.start) * pieces..][..R * pieces];
        let tile = Tile::<F, R, M> {
            format: self.strip.format,
            codes: weight.codes[row * bytes..][..R * bytes].as_ptr(),
            bytes,
            x: self.x[..M * k].as_ptr(),
            k,
        };
        let mut sums = [[s.splat(0.0); M]; R];
        let mut at = 0;
        for index in 0..pieces {
            let of_row = |r: usize| scales[r * pieces + index];
            let end = at + piece;
            // SAFETY: `piece` is a multiple of `STEP`, and the pieces end with the rows.
            unsafe {
                let blocks = tile.blocks(s, at, of_row);
                while at + UNROLLED <= end {
                    for step in (0..UNROLLED).step_by(2 * S::LANES) {
                        tile.add(s, blocks, at + step, &mut sums);
                    }
                    at += UNROLLED;
                }
                while at < end {
                    tile.add(s, blocks, at, &mut sums);
                    at += 2 * S::LANES;
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (m, &sum) in sums.iter().enumerate().take(self.rows) {
                self.write(row + r, m, s.sum(sum));
            }
        }
    }

    /// Output `row` of a weight row that is decoded already.
    #[inline(always)]
    fn decoded<S: Simd, const M: usize>(&self, s: S, row: usize, numbers: &[f32]) {
        let k = numbers.len();
        let mut x = [std::ptr::null(); M];
        for (m, x) in x.iter_mut().enumerate() {
            *x = self.x[m * k..][..k].as_ptr();
        }
        // SAFETY: each pointer comes from a slice of `k` values.
        let [sums] = unsafe { dot_rows::<S, f32, 1, M>(s, [numbers.as_ptr()], x, k, 0) };
        for (m, sum) in sums.iter().enumerate().take(self.rows) {
            self.write(row, m, *sum);
        }
    }

    #[inline(always)]
    fn write(&self, row: usize, m: usize, sum: f32) {
        let product = &self.strip.product;
        let sum = sum + product.bias.map_or(0.0, |bias| bias[row]);
        let at = (self.first + m) * product.weight.shape[0] + row;
        // SAFETY: `row` is a column and `first + m` a row of the output, and this task alone
        // writes this column.
        unsafe { product.out.at(at).write(sum) };
    }
}

/// `R` rows of the weight, whose codes take `bytes` each, and `M` rows of `x`, of `k` values.
struct Tile<F, const R: usize, const M: usize> {
    format: F,
    codes: *const u8,
    bytes: usize,
    x: *const f32,
    k: usize,
}

impl<F: Format, const R: usize, const M: usize> Tile<F, R, M> {
    /// What the numbers of a piece share, by row; later codes are prefetched.
    #[inline(always)]
    fn blocks<S: Simd>(&self, s: S, at: usize, scale: impl Fn(usize) -> f32) -> [F::Block<S>; R] {
        let mut blocks = [self.format.block(s, 0.0); R];
        for (r, block) in blocks.iter_mut().enumerate() {
            let ahead = r * self.bytes + at / F::PER_BYTE + AHEAD;
            s.prefetch(self.codes.wrapping_add(ahead));
            *block = self.format.block(s, scale(r));
        }
        blocks
    }

    /// Adds the products of the `2·LANES` numbers from `at` on.
    ///
    /// # Safety
    /// The rows must have `2·LANES` numbers from `at` on.
    #[inline(always)]
    #[allow(
        clippy::needless_range_loop,
        reason = "an index addresses registers and memory alike"
    )]
    unsafe fn add<S: Simd>(
        &self,
        s: S,
        blocks: [F::Block<S>; R],
        at: usize,
        sums: &mut [[S::V; M]; R],
    ) {
        let mut numbers = [[s.splat(0.0); 2]; R];
        for r in 0..R {
            // SAFETY: the caller vouches for the codes of each row.
            unsafe {
                let codes = self.codes.add(r * self.bytes + at / F::PER_BYTE);
                numbers[r] = F::read(s, blocks[r], codes);
            }
        }
        for m in 0..M {
            // SAFETY: the caller vouches for the values of each row.
            let x = unsafe {
                let x = self.x.add(m * self.k + at);
                [s.load(x), s.load(x.add(S::LANES))]
            };
            for r in 0..R {
                sums[r][m] = s.mul_add(numbers[r][0], x[0], sums[r][m]);
                sums[r][m] = s.mul_add(numbers[r][1], x[1], sums[r][m]);
            }
        }
    }
}
