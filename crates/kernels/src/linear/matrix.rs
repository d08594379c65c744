//! Strided matrices and their product through the `gemm` crate.
#![allow(
    unsafe_code,
    reason = "calls to gemm with raw matrices, bounds checked by the views"
)]

use burn_flex::FlexTensor;
use gemm::Parallelism;

use crate::cpu::Rows;

/// Multiplications from which a product is worth waking the other threads.
const PARALLEL: usize = 64 * 64 * 64;

/// A strided f32 matrix: entry `(i, j)` is `data[i·row_stride + j·col_stride]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// # Panics
    /// When `data` does not hold the matrix.
    pub(crate) fn new(
        data: &'a [f32],
        [rows, cols]: [usize; 2],
        [row_stride, col_stride]: [usize; 2],
    ) -> Self {
        if rows > 0 && cols > 0 {
            assert!((rows - 1) * row_stride + (cols - 1) * col_stride < data.len());
        }
        Self {
            data,
            rows,
            cols,
            row_stride,
            col_stride,
        }
    }

    pub(crate) fn of_rows(view: &'a Rows) -> Self {
        Self::new(view.data(), [view.rows(), view.width()], [view.stride(), 1])
    }

    /// Views a tensor of rank 2 without negative strides, see [`forward_strides`].
    pub(crate) fn of_tensor(tensor: &'a FlexTensor) -> Self {
        let layout = tensor.layout();
        let (shape, strides) = (layout.shape(), layout.strides());
        let strides = [strides[0].unsigned_abs(), strides[1].unsigned_abs()];
        Self::new(
            &tensor.storage()[layout.start_offset()..],
            [shape[0], shape[1]],
            strides,
        )
    }

    pub(crate) fn transposed(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// The columns from `first` on, at most `count`.
    pub(crate) fn columns(self, first: usize, count: usize) -> Self {
        let cols = count.min(self.cols - first);
        let data = &self.data[(first * self.col_stride).min(self.data.len())..];
        Self { data, cols, ..self }
    }
}

/// The tensor, copied if a dimension runs backwards.
pub(crate) fn forward_strides(tensor: FlexTensor) -> FlexTensor {
    if tensor.layout().strides().iter().all(|&stride| stride >= 0) {
        tensor
    } else {
        tensor.to_contiguous()
    }
}

/// `a·b`, row-major, every row starting from `bias`.
pub(crate) fn product(a: Matrix<'_>, b: Matrix<'_>, bias: Option<&[f32]>) -> Vec<f32> {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    let mut out = Vec::<f32>::with_capacity(m * n);
    if let Some(bias) = bias {
        assert_eq!(bias.len(), n);
        (0..m).for_each(|_| out.extend_from_slice(bias));
    }
    let threads = if m * n * k < PARALLEL {
        Parallelism::None
    } else {
        Parallelism::Rayon(0)
    };
    // SAFETY: the buffer has room for `m` rows of `n`; it holds values iff they are read; and
    // the product writes all of them before the length is set.
    unsafe {
        product_into(a, b, (out.as_mut_ptr(), n), bias.is_some(), threads);
        out.set_len(m * n);
    }
    out
}

/// Writes `a·b` to `out`, or adds it.
///
/// # Safety
/// `out` must be valid for writing, and reading if `add`, `a.rows` rows of `b.cols` values, which
/// start `stride` apart.
pub(crate) unsafe fn product_into(
    a: Matrix<'_>,
    b: Matrix<'_>,
    (out, stride): (*mut f32, usize),
    add: bool,
    threads: Parallelism,
) {
    assert_eq!(a.cols, b.rows, "product: inner dimensions");
    // SAFETY: `Matrix::new` checked that the strides stay inside the data, and the caller
    // vouches for the output.
    unsafe {
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            out,
            1,
            stride.cast_signed(),
            add,
            a.data.as_ptr(),
            a.col_stride.cast_signed(),
            a.row_stride.cast_signed(),
            b.data.as_ptr(),
            b.col_stride.cast_signed(),
            b.row_stride.cast_signed(),
            1.0,
            1.0,
            false,
            false,
            false,
            threads,
        );
    }
}
