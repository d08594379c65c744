//! Matrix products of bf16 operands with f32 sums.
//!
//! Both operands are rounded to bf16, to nearest, ties to even, while they are packed; products of
//! two bf16 numbers are exact in f32, and every sum is made in f32, in an order that depends on
//! the shapes and the instruction set alone. With AVX512-BF16 the sums go through `vdpbf16ps`,
//! which adds two products at a time and takes numbers below 2⁻¹²⁶ for zero, in operands and in
//! sums; elsewhere the rounded operands go through the f32 product.
//!
//! Few rows ([`mod@dot`], [`mod@columns`]) meet the rows of the weight where they lie. More rows go
//! through [`blocks`]:
//!
//! ```text
//! left   [rows, depth]  → panels of 14 rows:    pair of depths by pair, 14 pairs side by side
//! right  [depth, cols]  → panels of 32 columns: pair of depths by pair, 32 pairs side by side
//! tile   14 × 32 sums in 28 registers: per pair of depths 2 loads, 14 broadcasts, 28 vdpbf16ps
//! ```
//!
//! The left operand is packed once for all threads. The right one comes from [`Decode`], a few
//! panels and a block of depths at a time, into a buffer of the thread that multiplies them, so no
//! dense copy of a weight exists.
//!
//! # Source
//! - the blocking of panels: Goto and van de Geijn 2008, Anatomy of High-Performance Matrix
//!   Multiplication, ACM TOMS 34(3), §4
#![allow(
    unsafe_code,
    reason = "outputs are filled before they are read, so nothing is zeroed first"
)]

#[cfg(target_arch = "x86_64")]
mod blocks;
#[cfg(target_arch = "x86_64")]
mod columns;
#[cfg(target_arch = "x86_64")]
mod dot;
mod left;
mod operand;
#[cfg(target_arch = "x86_64")]
mod pack_left;
#[cfg(target_arch = "x86_64")]
mod pack_right;
mod rounded;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod tile;

use burn::tensor::{DType, Shape};
use burn_flex::FlexTensor;
use half::bf16;

use self::left::Left;
pub(crate) use self::operand::Operand;
use super::flex::with_width;
use crate::cpu::{Decode, Rows, Shared, tensor, tensor_bf16};
#[cfg(target_arch = "x86_64")]
use crate::simd::Avx512Bf16;

/// How the matrix behind a right operand lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Orientation {
    /// `left·Wᵀ`: each row of W makes a column of the product.
    Rows,
    /// `left·W`: each column of W makes a column of the product.
    Columns,
}

impl Orientation {
    /// That of the transposed matrix.
    pub(super) fn flipped(self) -> Self {
        match self {
            Self::Rows => Self::Columns,
            Self::Columns => Self::Rows,
        }
    }
}

/// Where the product goes: row-major, dense, all of it written.
#[derive(Debug, Clone, Copy)]
enum Output {
    F32(Shared<f32>),
    /// Rounded once, from the finished sum.
    Bf16(Shared<bf16>),
}

/// `y = x·Wᵀ + b`, of the dtype of x, f32 or bf16; b may be either.
///
/// # Panics
/// When x has not as many columns as W, or b is not as long as W has rows.
pub(crate) fn forward(x: FlexTensor, weight: &impl Decode, bias: Option<FlexTensor>) -> FlexTensor {
    product(x, weight, Orientation::Rows, bias)
}

/// `dx = dy·W`, of the dtype of dy, f32 or bf16.
///
/// # Panics
/// When dy has not as many columns as W has rows.
pub(crate) fn gradient(dy: FlexTensor, weight: &impl Decode) -> FlexTensor {
    product(dy, weight, Orientation::Columns, None)
}

/// `dW = dyᵀ·x` in f32, of dy and x in f32 or bf16.
pub(super) fn weight_gradient(dy: FlexTensor, x: FlexTensor) -> FlexTensor {
    let (dy, x) = (Rows::new(dy), Rows::new(x));
    let shape = Shape::from([dy.width(), x.width()]);
    let left = Left::of(&dy).transposed();
    tensor(sums(&left, &x, Orientation::Columns, None), shape)
}

/// The rows of `x` times `right`, plus `bias`.
pub(super) fn product(
    x: FlexTensor,
    right: &impl Decode,
    orientation: Orientation,
    bias: Option<FlexTensor>,
) -> FlexTensor {
    let width = match orientation {
        Orientation::Rows => right.shape()[0],
        Orientation::Columns => right.shape()[1],
    };
    let shape = with_width(x.layout().shape(), width);
    let x = Rows::new(x);
    let bias = bias.map(|bias| {
        let mut values = vec![0.0; width];
        Rows::new(bias).decode(0..1, 0..width, &mut values);
        values
    });
    let left = Left::of(&x);
    if x.dtype() == DType::BF16 {
        tensor_bf16(
            rounded_sums(&left, right, orientation, bias.as_deref()),
            shape,
        )
    } else {
        tensor(sums(&left, right, orientation, bias.as_deref()), shape)
    }
}

fn sums(
    left: &Left<'_>,
    right: &impl Decode,
    orientation: Orientation,
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let cols = columns(left, right, orientation, bias);
    let len = left.rows * cols;
    let mut out = Vec::<f32>::with_capacity(len);
    // SAFETY: the buffer holds `rows` of `cols`, and all of them are written.
    unsafe {
        multiply(
            left,
            right,
            orientation,
            bias,
            Output::F32(Shared(out.as_mut_ptr())),
        );
        out.set_len(len);
    }
    out
}

fn rounded_sums(
    left: &Left<'_>,
    right: &impl Decode,
    orientation: Orientation,
    bias: Option<&[f32]>,
) -> Vec<bf16> {
    let cols = columns(left, right, orientation, bias);
    let len = left.rows * cols;
    let mut out = Vec::<bf16>::with_capacity(len);
    // SAFETY: the buffer holds `rows` of `cols`, and all of them are written.
    unsafe {
        multiply(
            left,
            right,
            orientation,
            bias,
            Output::Bf16(Shared(out.as_mut_ptr())),
        );
        out.set_len(len);
    }
    out
}

/// The columns of the product, whose operands must fit each other.
fn columns(
    left: &Left<'_>,
    right: &impl Decode,
    orientation: Orientation,
    bias: Option<&[f32]>,
) -> usize {
    let (cols, depth) = match (orientation, right.shape()) {
        (Orientation::Rows, [cols, depth]) | (Orientation::Columns, [depth, cols]) => (cols, depth),
    };
    assert_eq!(left.depth, depth, "product: inner dimensions");
    assert!(
        bias.is_none_or(|bias| bias.len() == cols),
        "product: length of the bias"
    );
    cols
}

/// Writes the whole product to `out`.
///
/// # Safety
/// `out` must be valid for writing as many rows as `left` has, of as many columns as the product
/// has, and [`columns`] must have found that the operands fit.
unsafe fn multiply(
    left: &Left<'_>,
    right: &impl Decode,
    orientation: Orientation,
    bias: Option<&[f32]>,
    out: Output,
) {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = Avx512Bf16::detect() {
        // SAFETY: passed on unchanged.
        unsafe {
            if orientation == Orientation::Rows && left.rows <= dot::MAX_ROWS && !left.transposed {
                dot::product(simd, left, right, bias, out);
            } else if orientation == Orientation::Columns
                && left.rows <= columns::MAX_ROWS
                && !left.transposed
            {
                columns::product(simd, left, right, bias, out);
            } else {
                blocks::product(simd, left, right, orientation, bias, out);
            }
        }
        return;
    }
    // SAFETY: passed on unchanged.
    unsafe { rounded::product(left, right, orientation, bias, out) }
}
