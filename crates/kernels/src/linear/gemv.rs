//! Products with few rows: one pass over the weight, each of its rows met by every row of `x`.
#![allow(
    unsafe_code,
    reason = "an inner loop over raw rows, bounds checked once per call"
)]

use std::ops::Range;

use rayon::prelude::*;

use crate::cpu::{Rows, Shared, Stored};
use crate::simd::{Kernel, Simd, dispatch, dot_rows};

/// The most rows of `x` that one pass over the weight serves.
pub(super) const MAX_ROWS: usize = 8;

/// Bytes between a weight in use and one being prefetched.
const AHEAD: usize = 8 * 1024;

/// Weight values that one task reads at least.
const TASK: usize = 32 * 1024;

/// `y = x·Wᵀ + b` for up to [`MAX_ROWS`] rows.
pub(super) fn gemv<W: Stored>(x: &Rows, weight: &Rows, bias: Option<&[f32]>) -> Vec<f32> {
    assert!(x.rows() <= MAX_ROWS && x.width() == weight.width());
    assert!(bias.is_none_or(|bias| bias.len() == weight.rows()));
    let (m, n) = (x.rows(), weight.rows());
    let mut y = Vec::<f32>::with_capacity(m * n);
    let out = Shared(y.as_mut_ptr());
    let (w, values) = (weight.data::<W>(), x.data::<f32>());
    let strip = |rows: Range<usize>| {
        dispatch(Strip {
            w,
            w_stride: weight.stride(),
            x: values,
            x_stride: x.stride(),
            m,
            n,
            k: x.width(),
            rows,
            bias,
            out,
        });
    };
    let per_task = TASK.div_ceil(x.width().max(1)).next_multiple_of(MAX_ROWS);
    if n <= per_task {
        strip(0..n);
    } else {
        (0..n.div_ceil(per_task)).into_par_iter().for_each(|task| {
            let first = task * per_task;
            strip(first..(first + per_task).min(n));
        });
    }
    // SAFETY: the capacity is `m·n`, and the strips together wrote all columns of all rows.
    unsafe { y.set_len(m * n) };
    y
}

/// The outputs `rows` of the weight, for all rows of `x`.
struct Strip<'a, W> {
    w: &'a [W],
    w_stride: usize,
    x: &'a [f32],
    x_stride: usize,
    m: usize,
    n: usize,
    k: usize,
    rows: Range<usize>,
    bias: Option<&'a [f32]>,
    out: Shared,
}

impl<W: Stored> Kernel for Strip<'_, W> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // As many weight rows at a time as keep the sums in registers and the adders busy.
        match self.m {
            0 => {}
            1 => self.columns::<S, 8, 1>(s),
            2 => self.columns::<S, 4, 2>(s),
            3 => self.columns::<S, 2, 3>(s),
            4 => self.columns::<S, 2, 4>(s),
            5 => self.columns::<S, 2, 5>(s),
            6 => self.columns::<S, 2, 6>(s),
            7 => self.columns::<S, 2, 7>(s),
            _ => self.columns::<S, 2, 8>(s),
        }
    }
}

impl<W: Stored> Strip<'_, W> {
    #[inline(always)]
    fn columns<S: Simd, const R: usize, const M: usize>(&self, s: S) {
        let mut row = self.rows.start;
        while row + R <= self.rows.end {
            self.block::<S, R, M>(s, row);
            row += R;
        }
        while row < self.rows.end {
            self.block::<S, 1, M>(s, row);
            row += 1;
        }
    }

    /// How far ahead the weight is prefetched: whole rows, [`AHEAD`] bytes or more.
    #[inline(always)]
    fn ahead(&self) -> usize {
        let bytes = (self.w_stride * size_of::<W>()).max(1);
        self.w_stride * AHEAD.div_ceil(bytes).next_multiple_of(MAX_ROWS)
    }

    /// Outputs `row..row + R` for all `M` rows of x.
    #[inline(always)]
    fn block<S: Simd, const R: usize, const M: usize>(&self, s: S, row: usize) {
        let mut w = [std::ptr::null::<W>(); R];
        for (r, w) in w.iter_mut().enumerate() {
            *w = self.w[(row + r) * self.w_stride..][..self.k].as_ptr();
        }
        let mut x = [std::ptr::null::<f32>(); M];
        for (m, x) in x.iter_mut().enumerate() {
            *x = self.x[m * self.x_stride..][..self.k].as_ptr();
        }
        // SAFETY: each pointer comes from a slice of `k` values.
        let sums = unsafe { dot_rows::<S, W, R, M>(s, w, x, self.k, self.ahead()) };
        for (r, sums) in sums.iter().enumerate() {
            let bias = self.bias.map_or(0.0, |bias| bias[row + r]);
            for (m, sum) in sums.iter().enumerate() {
                // SAFETY: `m` and `row + r` are a row and a column of the output, and this task
                // alone writes these columns.
                unsafe { self.out.at(m * self.n + row + r).write(sum + bias) };
            }
        }
    }
}
