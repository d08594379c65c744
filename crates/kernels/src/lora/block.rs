//! Products of a block of rows: the inner steps of both passes.
#![allow(
    unsafe_code,
    reason = "products of raw matrices whose bounds the callers checked"
)]

use std::ops::Range;

use super::dropout::Mask;
use super::plan::BLOCK;
use crate::simd::{Kernel, Panels, Simd, Strided, dispatch, product};

/// Steps of a rank that a padded row of `h` may be longer than the rank: no instruction set has
/// more lanes.
const PAD: usize = 16;

/// The rank with room for the last register.
pub(super) fn padded(r: usize) -> usize {
    r.next_multiple_of(PAD)
}

/// A row-major matrix in memory, rows `stride` apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) values: &'a [f32],
    pub(super) stride: usize,
}

impl<'a> View<'a> {
    /// The matrix without its first rows.
    pub(super) fn skip_rows(self, row: usize) -> Self {
        Self {
            values: &self.values[(row * self.stride).min(self.values.len())..],
            ..self
        }
    }

    /// The values of one row.
    pub(super) fn row(self, row: usize, width: usize) -> &'a [f32] {
        &self.values[row * self.stride..][..width]
    }

    /// Whether it has as many rows of such a width.
    fn holds(self, rows: usize, width: usize) -> bool {
        rows == 0 || (rows - 1) * self.stride + width <= self.values.len()
    }
}

/// What a thread keeps from block to block.
#[derive(Default)]
pub(super) struct Scratch {
    /// Rows of inputs after dropout, or of products before it.
    pub(super) rows: Vec<f32>,
    /// The block's rows in the rank, padded.
    pub(super) h: Vec<f32>,
    /// A second one.
    pub(super) dh: Vec<f32>,
    /// The last columns of a right operand and of a product, where they do not fill a register.
    edge: [Vec<f32>; 2],
}

/// The transpose of a matrix of `rows` rows of `cols`, rows `stride` apart and zero past `rows`.
pub(super) fn transposed(from: View<'_>, rows: usize, cols: usize, stride: usize) -> Vec<f32> {
    assert!(from.holds(rows, cols) && stride >= rows);
    let mut to = vec![0.0; cols * stride];
    dispatch(Transpose {
        from,
        shape: [rows, cols],
        to: &mut to,
        stride,
    });
    to
}

struct Transpose<'a> {
    from: View<'a>,
    shape: [usize; 2],
    to: &'a mut [f32],
    stride: usize,
}

impl Kernel for Transpose<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self {
            from,
            shape: [rows, cols],
            to,
            stride,
        } = self;
        for row in (0..rows).step_by(S::LANES) {
            for col in (0..cols).step_by(S::LANES) {
                let (tall, wide) = (S::LANES.min(rows - row), S::LANES.min(cols - col));
                if tall == S::LANES && wide == S::LANES {
                    // SAFETY: whole squares of both matrices.
                    unsafe {
                        let from = (from.values[row * from.stride + col..].as_ptr(), from.stride);
                        s.transpose(from, (to[col * stride + row..].as_mut_ptr(), stride));
                    }
                } else {
                    for i in row..row + tall {
                        for j in col..col + wide {
                            to[j * stride + i] = from.values[i * from.stride + j];
                        }
                    }
                }
            }
        }
    }
}

/// The rows of a block after dropout: the inputs themselves, or a masked copy of them.
pub(super) fn dropped<'a>(
    x: View<'a>,
    block: &Range<usize>,
    width: usize,
    mask: Option<Mask>,
    copy: &'a mut Vec<f32>,
) -> View<'a> {
    let Some(mask) = mask else {
        return x.skip_rows(block.start);
    };
    copy.resize(BLOCK * width, 0.0);
    for (row, copy) in block.clone().zip(copy.chunks_exact_mut(width)) {
        copy.copy_from_slice(x.row(row, width));
        mask.apply(row, copy);
    }
    View {
        values: copy,
        stride: width,
    }
}

/// `out = x·right`: `rows` rows of `k` values into rows of `width`, a multiple of [`PAD`].
pub(super) fn narrow(
    x: View<'_>,
    (rows, k, width): (usize, usize, usize),
    right: &[f32],
    out: &mut Vec<f32>,
) {
    assert!(x.holds(rows, k) && right.len() >= k * width && width.is_multiple_of(PAD));
    out.resize(rows * width, 0.0);
    dispatch(Narrow {
        x,
        shape: (rows, k, width),
        right,
        out,
    });
}

struct Narrow<'a> {
    x: View<'a>,
    shape: (usize, usize, usize),
    right: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Narrow<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (rows, k, width) = self.shape;
        let left = Strided {
            start: self.x.values.as_ptr(),
            row_stride: self.x.stride,
            col_stride: 1,
        };
        let right = Panels {
            start: self.right.as_ptr(),
            row_stride: width,
            panel_stride: S::TILE_VECS * S::LANES,
        };
        let out = (self.out.as_mut_ptr(), width);
        // SAFETY: `narrow` checked the sizes, and every instruction set's lanes divide the width.
        unsafe { product(s, (rows, width / S::LANES, k), left, right, out, false) };
    }
}

/// `out (+)= left·right`, with a left operand that is a few rows of a rank or their transpose.
pub(super) struct Wide<'a> {
    /// Rows, columns and inner steps.
    pub(super) shape: (usize, usize, usize),
    pub(super) left: &'a [f32],
    /// Of rows and columns of `left`.
    pub(super) left_strides: [usize; 2],
    pub(super) right: View<'a>,
    /// Rows of `shape.1` values, `stride` apart.
    pub(super) out: *mut f32,
    pub(super) stride: usize,
    pub(super) add: bool,
}

impl Wide<'_> {
    /// # Safety
    /// `out` must be valid for writing, and reading if `add`, the rows and columns of the shape.
    pub(super) unsafe fn run(self, scratch: &mut [Vec<f32>; 2]) {
        let (rows, cols, k) = self.shape;
        let [row_stride, col_stride] = self.left_strides;
        assert!(self.right.holds(k, cols) && self.stride >= cols);
        assert!(rows * k == 0 || (rows - 1) * row_stride + (k - 1) * col_stride < self.left.len());
        dispatch(WideKernel {
            wide: self,
            edge: scratch,
        });
    }
}

impl Scratch {
    /// Room for [`Wide::run`].
    pub(super) fn edge(&mut self) -> &mut [Vec<f32>; 2] {
        &mut self.edge
    }
}

struct WideKernel<'a> {
    wide: Wide<'a>,
    edge: &'a mut [Vec<f32>; 2],
}

impl Kernel for WideKernel<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Wide {
            shape: (rows, cols, k),
            left,
            left_strides: [row_stride, col_stride],
            right,
            out,
            stride,
            add,
        } = self.wide;
        let left = Strided {
            start: left.as_ptr(),
            row_stride,
            col_stride,
        };
        let panels = |start, row_stride| Panels {
            start,
            row_stride,
            panel_stride: 0,
        };
        let width = S::TILE_VECS * S::LANES;
        let whole = cols - cols % S::LANES;
        // SAFETY: `Wide::run` checked the operands and its caller vouches for the output.
        unsafe {
            for col in (0..whole).step_by(width) {
                let vecs = width.min(whole - col) / S::LANES;
                let right = panels(right.values.as_ptr().add(col), right.stride);
                product(s, (rows, vecs, k), left, right, (out.add(col), stride), add);
            }
            let rest = cols - whole;
            if rest == 0 {
                return;
            }
            let [columns, sums] = self.edge;
            columns.clear();
            columns.resize(k * S::LANES, 0.0);
            sums.resize(rows * S::LANES, 0.0);
            for (row, to) in columns.chunks_exact_mut(S::LANES).enumerate() {
                to[..rest].copy_from_slice(&right.values[row * right.stride + whole..][..rest]);
            }
            let right = panels(columns.as_ptr(), S::LANES);
            let to = (sums.as_mut_ptr(), S::LANES);
            product(s, (rows, 1, k), left, right, to, false);
            for (row, sums) in sums.chunks_exact(S::LANES).take(rows).enumerate() {
                for (col, sum) in sums.iter().take(rest).enumerate() {
                    let to = out.add(row * stride + whole + col);
                    if add {
                        *to += sum;
                    } else {
                        to.write(*sum);
                    }
                }
            }
        }
    }
}
