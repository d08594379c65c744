//! Products with a bf16 or f16 weight: blocks of it become f32 in a thread's own cache, right
//! before `gemm` uses them, so that no dense f32 copy of the weight exists.
#![allow(unsafe_code, reason = "threads write separate columns of one output")]

use gemm::Parallelism;
use rayon::prelude::*;

use super::matrix::{Matrix, product_into};
use crate::cpu::{Rows, Shared, Stored};
use crate::simd::{Kernel, Simd, dispatch};

/// Output columns per task. Fixed, so that results do not depend on the number of threads.
const COLUMNS: usize = 128;

/// Reduction steps per converted block in [`gradient`].
const STEPS: usize = 256;

/// `y = x·Wᵀ + b`: each task converts some rows of W and makes as many columns of y.
pub(super) fn forward<W: Stored>(x: &Rows, weight: &Rows, bias: Option<&[f32]>) -> Vec<f32> {
    let (m, n, k) = (x.rows(), weight.rows(), x.width());
    let mut y = Vec::<f32>::with_capacity(m * n);
    if let Some(bias) = bias {
        assert_eq!(bias.len(), n);
        (0..m).for_each(|_| y.extend_from_slice(bias));
    }
    let out = Shared(y.as_mut_ptr());
    let w = weight.data::<W>();
    (0..n.div_ceil(COLUMNS))
        .into_par_iter()
        .for_each_init(Vec::new, |block, task| {
            let first = task * COLUMNS;
            let count = COLUMNS.min(n - first);
            convert(
                &w[first * weight.stride()..],
                [count, k, weight.stride()],
                block,
            );
            let panel = Matrix::new(block, [count, k], [k, 1]).transposed();
            // SAFETY: columns `first..first + count` of the `m` rows belong to this task alone; they
            // hold values iff there is a bias.
            unsafe {
                let out = (out.at(first), n);
                product_into(
                    Matrix::of_rows(x),
                    panel,
                    out,
                    bias.is_some(),
                    Parallelism::None,
                );
            }
        });
    // SAFETY: the capacity is `m·n`, and the tasks together wrote all columns.
    unsafe { y.set_len(m * n) };
    y
}

/// `dx = dy·W`: each task converts some columns of W, block of rows by block of rows, and makes
/// the same columns of dx.
pub(super) fn gradient<W: Stored>(dy: &Rows, weight: &Rows) -> Vec<f32> {
    let (m, n, k) = (dy.rows(), weight.rows(), weight.width());
    let mut dx = vec![0.0f32; m * k];
    let out = Shared(dx.as_mut_ptr());
    let w = weight.data::<W>();
    (0..k.div_ceil(COLUMNS))
        .into_par_iter()
        .for_each_init(Vec::new, |block, task| {
            let first = task * COLUMNS;
            let count = COLUMNS.min(k - first);
            for step in (0..n).step_by(STEPS) {
                let steps = STEPS.min(n - step);
                let from = &w[step * weight.stride() + first..];
                convert(from, [steps, count, weight.stride()], block);
                let left = Matrix::of_rows(dy).columns(step, steps);
                let right = Matrix::new(block, [steps, count], [count, 1]);
                // SAFETY: columns `first..first + count` of the `m` rows belong to this task alone.
                unsafe { product_into(left, right, (out.at(first), k), true, Parallelism::None) };
            }
        });
    dx
}

/// Makes `block` the f32 copy of `rows` rows of `width` values, which start `stride` apart.
fn convert<W: Stored>(from: &[W], [rows, width, stride]: [usize; 3], block: &mut Vec<f32>) {
    block.resize(rows * width, 0.0);
    for (row, to) in block.chunks_exact_mut(width.max(1)).enumerate() {
        dispatch(Convert {
            from: &from[row * stride..][..width],
            to,
        });
    }
}

struct Convert<'a, W> {
    from: &'a [W],
    to: &'a mut [f32],
}

impl<W: Stored> Kernel for Convert<'_, W> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let whole = self.to.len() - self.to.len() % S::LANES;
        for at in (0..whole).step_by(S::LANES) {
            // SAFETY: both slices have `LANES` values from `at` on.
            unsafe {
                let value = W::load(s, self.from[at..][..S::LANES].as_ptr());
                s.store(value, self.to[at..][..S::LANES].as_mut_ptr());
            }
        }
        for (from, to) in self.from[whole..].iter().zip(&mut self.to[whole..]) {
            *to = from.to_f32();
        }
    }
}
