//! Products with a weight that is not f32 in memory: panels of it become f32 in a thread's own
//! cache, right before they are multiplied, so that no dense f32 copy of the weight exists.
#![allow(unsafe_code, reason = "threads write separate parts of one output")]

use std::ops::Range;

use rayon::prelude::*;

use crate::cpu::{Decode, Rows, Shared};
use crate::simd::{Kernel, Panels, Simd, Strided, dispatch, product};

/// Output columns of a task; half of them where there would be few tasks.
///
/// This and the other sizes are fixed, so that results do not depend on the number of threads.
const COLUMNS: usize = 128;

/// The most output rows of a task, about: so many that decoding a panel for each of several tasks
/// costs little.
const ROWS: usize = 384;

/// A multiple of the rows of every instruction set's tile.
const TILES: usize = 12;

/// Reduction steps per decoded panel.
const STEPS: usize = 256;

/// `y = x·Wᵀ + b`.
pub(crate) fn forward<D: Decode>(x: &Rows, weight: &D, bias: Option<&[f32]>) -> Vec<f32> {
    let [d_out, d_in] = weight.shape();
    assert!(x.width() == d_in && bias.is_none_or(|bias| bias.len() == d_out));
    tiled::<D, true>(x, weight, bias, [d_in, d_out])
}

/// `dx = dy·W`.
pub(crate) fn gradient<D: Decode>(dy: &Rows, weight: &D) -> Vec<f32> {
    let [d_out, d_in] = weight.shape();
    assert_eq!(dy.width(), d_out);
    tiled::<D, false>(dy, weight, None, [d_out, d_in])
}

/// `left·right + bias`, `[m, k]` times `[k, n]`, with the weight or its transpose on the right.
fn tiled<D: Decode, const TRANSPOSED: bool>(
    left: &Rows,
    weight: &D,
    bias: Option<&[f32]>,
    [k, n]: [usize; 2],
) -> Vec<f32> {
    let m = left.rows();
    let mut out = vec![0.0; m * n];
    let shared = Shared(out.as_mut_ptr());
    let columns = if n < 8 * COLUMNS {
        COLUMNS / 2
    } else {
        COLUMNS
    };
    let row_tasks = m.div_ceil(ROWS);
    let rows_per_task = m.div_ceil(row_tasks.max(1)).next_multiple_of(TILES);
    let column_tasks = n.div_ceil(columns);
    (0..column_tasks * row_tasks).into_par_iter().for_each_init(
        Buffers::default,
        |buffers, task| {
            // Neighbouring tasks share rows of the left-hand matrix.
            let row = task / column_tasks * rows_per_task;
            let col = task % column_tasks * columns;
            dispatch(Task::<D, TRANSPOSED> {
                left,
                weight,
                bias,
                out: (shared, n),
                rows: row..(row + rows_per_task).min(m),
                cols: col..(col + columns).min(n),
                steps: k,
                buffers,
            });
        },
    );
    out
}

/// What a thread keeps from task to task.
#[derive(Default)]
struct Buffers {
    /// Steps × columns of the right-hand matrix, panel by panel.
    panels: Vec<f32>,
    /// Rows of the weight before they are transposed.
    rows: Vec<f32>,
    /// Products of the last columns, where they don't fill a register.
    edge: Vec<f32>,
}

/// The outputs `rows` × `cols`.
struct Task<'a, D, const TRANSPOSED: bool> {
    left: &'a Rows,
    weight: &'a D,
    bias: Option<&'a [f32]>,
    out: (Shared, usize),
    rows: Range<usize>,
    cols: Range<usize>,
    steps: usize,
    buffers: &'a mut Buffers,
}

impl<D: Decode, const TRANSPOSED: bool> Kernel for Task<'_, D, TRANSPOSED> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        self.start();
        for first in (0..self.steps).step_by(STEPS) {
            let steps = first..(first + STEPS).min(self.steps);
            self.fill(s, steps.clone());
            self.multiply(s, steps);
        }
    }
}

impl<D: Decode, const TRANSPOSED: bool> Task<'_, D, TRANSPOSED> {
    /// Puts the bias where sums begin; all else is zero already.
    fn start(&self) {
        let (Some(bias), (out, n)) = (self.bias, self.out) else {
            return;
        };
        let bias = &bias[self.cols.clone()];
        for row in self.rows.clone() {
            // SAFETY: the row and the columns lie in the output, and this task alone writes them.
            unsafe {
                let to = out.at(row * n + self.cols.start);
                std::ptr::copy_nonoverlapping(bias.as_ptr(), to, bias.len());
            }
        }
    }

    /// Makes the panels for these steps of the reduction.
    #[inline(always)]
    fn fill<S: Simd>(&mut self, s: S, steps: Range<usize>) {
        let Buffers { panels, rows, .. } = &mut *self.buffers;
        let width = S::TILE_VECS * S::LANES;
        panels.resize(COLUMNS.next_multiple_of(width) * STEPS, 0.0);
        for (panel, first) in panels
            .chunks_exact_mut(width * steps.len())
            .zip(self.cols.clone().step_by(width))
        {
            let cols = first..(first + width).min(self.cols.end);
            if TRANSPOSED {
                rows.resize(S::LANES * STEPS, 0.0);
                for (vec, first) in cols.clone().step_by(S::LANES).enumerate() {
                    let group = first..(first + S::LANES).min(cols.end);
                    let rows = &mut rows[..S::LANES * steps.len()];
                    let (wanted, _) = rows.split_at_mut(group.len() * steps.len());
                    self.weight.decode(group, steps.clone(), wanted);
                    transposed(s, rows, &mut panel[vec * S::LANES..], width, steps.len());
                }
            } else if cols.len() == width {
                self.weight.decode(steps.clone(), cols, panel);
            } else {
                rows.resize(width * STEPS, 0.0);
                let rows = &mut rows[..cols.len() * steps.len()];
                self.weight.decode(steps.clone(), cols.clone(), rows);
                for (from, to) in rows
                    .chunks_exact(cols.len())
                    .zip(panel.chunks_exact_mut(width))
                {
                    to[..cols.len()].copy_from_slice(from);
                }
            }
        }
    }

    /// Adds the products of these steps.
    #[inline(always)]
    fn multiply<S: Simd>(&mut self, s: S, steps: Range<usize>) {
        let Buffers { panels, edge, .. } = &mut *self.buffers;
        let (rows, cols) = (self.rows.len(), self.cols.len());
        let width = S::TILE_VECS * S::LANES;
        let left = &self.left.data::<f32>()[self.rows.start * self.left.stride() + steps.start..];
        assert!(rows == 0 || (rows - 1) * self.left.stride() + steps.len() <= left.len());
        let left = Strided {
            start: left.as_ptr(),
            row_stride: self.left.stride(),
            col_stride: 1,
        };
        let right = |first: usize| Panels {
            start: panels[first / width * width * steps.len() + first % width..].as_ptr(),
            row_stride: width,
            panel_stride: width * steps.len(),
        };
        let (out, n) = self.out;
        let (vecs, whole) = (cols / S::LANES, cols - cols % S::LANES);
        // SAFETY: the left-hand rows were checked above; the panels have all columns, whole
        // registers of them, for every step; rows and columns lie in the output, which this task
        // alone writes there.
        unsafe {
            let out = out.at(self.rows.start * n + self.cols.start);
            product(s, (rows, vecs, steps.len()), left, right(0), (out, n), true);
            if whole < cols {
                edge.resize(rows * S::LANES, 0.0);
                let sums = (edge.as_mut_ptr(), S::LANES);
                product(s, (rows, 1, steps.len()), left, right(whole), sums, false);
                for (row, sums) in edge.chunks_exact(S::LANES).take(rows).enumerate() {
                    for (col, sum) in (whole..cols).zip(sums) {
                        *out.add(row * n + col) += sum;
                    }
                }
            }
        }
    }
}

/// Writes `LANES` rows of `len` values as columns into rows `stride` apart.
#[inline(always)]
fn transposed<S: Simd>(s: S, rows: &[f32], to: &mut [f32], stride: usize, len: usize) {
    assert!(rows.len() == S::LANES * len && to.len() >= (len - 1) * stride + S::LANES);
    let whole = len - len % S::LANES;
    for at in (0..whole).step_by(S::LANES) {
        // SAFETY: the rows have `LANES` values from `at` on, and as many rows of `to` follow.
        unsafe {
            let to = to.as_mut_ptr().add(at * stride);
            s.transpose((rows.as_ptr().add(at), len), (to, stride));
        }
    }
    for at in whole..len {
        for lane in 0..S::LANES {
            to[at * stride + lane] = rows[lane * len + at];
        }
    }
}
