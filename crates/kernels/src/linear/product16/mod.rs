//! Matrix products in blocks, of operands rounded to bf16 or of f32 ones as they are.
//!
//! With [`Precision::Bf16`] both operands are rounded to bf16, to nearest, ties to even, while they are packed; products of
//! two bf16 numbers are exact in f32, and every sum is made in f32, in an order that depends on
//! the shapes and the instruction set alone. With AVX512-BF16 the sums go through `vdpbf16ps`,
//! which adds two products at a time and takes numbers below 2⁻¹²⁶ for zero, in operands and in
//! sums; elsewhere the rounded operands go through the f32 product.
//!
//! Operands in f32 take the same way with [`Precision::Full`], a depth in the place of each pair,
//! where the processor has AVX512-BF16; others use `gemm`.
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
//! The left operand is packed once for all threads, and for the layers beside this one if they
//! read the same input ([`kept`]). The right one comes from [`Decode`], a few
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
#[cfg(target_arch = "x86_64")]
mod kept;
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
use crate::precision::Precision;
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

/// Whether products in full precision go this way too.
pub(crate) fn in_full() -> bool {
    #[cfg(target_arch = "x86_64")]
    return Avx512Bf16::detect().is_some();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Whether bf16 operands meet in pairs, few rows in an order of sums that each row has by itself.
pub(crate) fn in_pairs() -> bool {
    in_full()
}

/// A low-rank product that is added to another: `h·Fᵀ`, or `h·F` with [`Orientation::Columns`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct LowRank<'a> {
    /// `[rows, r]`, dense.
    pub(crate) h: &'a [f32],
    /// `[cols, r]`, or `[r, cols]`.
    pub(crate) factor: &'a Rows,
}

/// `y = x·Wᵀ + b`, of the dtype of x, f32 or bf16; b may be either.
///
/// # Panics
/// When x has not as many columns as W, or b is not as long as W has rows.
pub(crate) fn forward(
    x: FlexTensor,
    weight: &impl Decode,
    bias: Option<FlexTensor>,
    precision: Precision,
) -> FlexTensor {
    product(x, weight, Orientation::Rows, bias, precision)
}

/// `dx = dy·W`, of the dtype of dy, f32 or bf16.
///
/// # Panics
/// When dy has not as many columns as W has rows.
pub(crate) fn gradient(dy: FlexTensor, weight: &impl Decode, precision: Precision) -> FlexTensor {
    product(dy, weight, Orientation::Columns, None, precision)
}

/// `dW = dyᵀ·x` in f32, of dy and x in f32 or bf16.
pub(super) fn weight_gradient(dy: FlexTensor, x: FlexTensor, precision: Precision) -> FlexTensor {
    let (dy, x) = (Rows::new(dy), Rows::new(x));
    let shape = Shape::from([dy.width(), x.width()]);
    let left = Left::of(&dy).transposed();
    let way = Way {
        precision: of(&dy, precision),
        orientation: Orientation::Columns,
    };
    tensor(sums(&left, &x, None, way, None), shape)
}

/// The rows of `x` times `right`, plus `bias`.
pub(super) fn product(
    x: FlexTensor,
    right: &impl Decode,
    orientation: Orientation,
    bias: Option<FlexTensor>,
    precision: Precision,
) -> FlexTensor {
    let shape = with_width(x.layout().shape(), width(right, orientation));
    let x = Rows::new(x);
    let precision = of(&x, precision);
    let way = Way {
        precision,
        orientation,
    };
    let bias = bias.map(|bias| numbers(bias, width(right, orientation)));
    let left = Left::of(&x);
    if x.dtype() == DType::BF16 {
        tensor_bf16(rounded_sums(&left, right, way, bias.as_deref()), shape)
    } else {
        tensor(sums(&left, right, None, way, bias.as_deref()), shape)
    }
}

/// [`product`] of f32 rows with a low-rank one added.
pub(crate) fn product_and(
    x: &Rows,
    right: &impl Decode,
    more: LowRank<'_>,
    orientation: Orientation,
    bias: Option<FlexTensor>,
    precision: Precision,
) -> Vec<f32> {
    let way = Way {
        precision,
        orientation,
    };
    let bias = bias.map(|bias| numbers(bias, width(right, orientation)));
    sums(&Left::of(x), right, Some(more), way, bias.as_deref())
}

/// `x·F`, f32 rows times a factor that lies as `orientation` says.
pub(crate) fn product_of_rows(
    x: &Rows,
    factor: &Rows,
    orientation: Orientation,
    precision: Precision,
) -> Vec<f32> {
    let way = Way {
        precision,
        orientation,
    };
    sums(&Left::of(x), factor, None, way, None)
}

/// Whether [`product_and`] can take the rows: enough of them, and few enough.
pub(crate) fn takes_more(x: &Rows, precision: Precision) -> bool {
    #[cfg(target_arch = "x86_64")]
    return Avx512Bf16::detect().is_some()
        && x.dtype() == DType::F32
        && x.rows() > dot::MAX_ROWS.max(columns::MAX_ROWS)
        && blocks::whole(kind(precision), &Left::of(x));
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (x, precision);
        false
    }
}

/// The precision of a product with `x`: bf16 stays bf16.
fn of(x: &Rows, precision: Precision) -> Precision {
    match x.dtype() {
        DType::BF16 => Precision::Bf16,
        _ => precision,
    }
}

fn width(right: &impl Decode, orientation: Orientation) -> usize {
    match orientation {
        Orientation::Rows => right.shape()[0],
        Orientation::Columns => right.shape()[1],
    }
}

fn numbers(bias: FlexTensor, width: usize) -> Vec<f32> {
    let mut values = vec![0.0; width];
    Rows::new(bias).decode(0..1, 0..width, &mut values);
    values
}

#[cfg(target_arch = "x86_64")]
fn kind(precision: Precision) -> tile::Kind {
    match precision {
        Precision::Full => tile::Kind::F32,
        Precision::Bf16 => tile::Kind::Bf16,
    }
}

/// How operands meet.
#[derive(Debug, Clone, Copy)]
struct Way {
    precision: Precision,
    orientation: Orientation,
}

fn sums(
    left: &Left<'_>,
    right: &impl Decode,
    more: Option<LowRank<'_>>,
    way: Way,
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let cols = columns(left, right, way.orientation, bias);
    let len = left.rows * cols;
    let mut out = Vec::<f32>::with_capacity(len);
    // SAFETY: the buffer holds `rows` of `cols`, and all of them are written.
    unsafe {
        let to = Output::F32(Shared(out.as_mut_ptr()));
        multiply(left, right, more, way, bias, to);
        out.set_len(len);
    }
    out
}

fn rounded_sums(left: &Left<'_>, right: &impl Decode, way: Way, bias: Option<&[f32]>) -> Vec<bf16> {
    let cols = columns(left, right, way.orientation, bias);
    let len = left.rows * cols;
    let mut out = Vec::<bf16>::with_capacity(len);
    // SAFETY: the buffer holds `rows` of `cols`, and all of them are written.
    unsafe {
        let to = Output::Bf16(Shared(out.as_mut_ptr()));
        multiply(left, right, None, way, bias, to);
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
///
/// # Panics
/// When there is more and [`takes_more`] says no, or when it does not fit.
unsafe fn multiply(
    left: &Left<'_>,
    right: &impl Decode,
    more: Option<LowRank<'_>>,
    way: Way,
    bias: Option<&[f32]>,
    out: Output,
) {
    let Way {
        precision,
        orientation,
    } = way;
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = Avx512Bf16::detect() {
        let kind = kind(precision);
        let halves = precision == Precision::Bf16 && more.is_none() && !left.transposed;
        let more = more.map(|more| {
            let (cols, r) = match orientation {
                Orientation::Rows => (more.factor.rows(), more.factor.width()),
                Orientation::Columns => (more.factor.width(), more.factor.rows()),
            };
            assert_eq!(cols, width(right, orientation), "product: columns of more");
            assert_eq!(more.h.len(), left.rows * r, "product: rows of more");
            let h = Left {
                values: left::Values::F32(more.h),
                rows: left.rows,
                depth: r,
                stride: r,
                transposed: false,
                tensor: None,
            };
            blocks::More {
                left: pack_left::PackedLeft::new(simd, kind, &h, 0..left.rows, 0..r),
                right: more.factor,
            }
        });
        // SAFETY: passed on unchanged.
        unsafe {
            if orientation == Orientation::Rows && left.rows <= dot::MAX_ROWS && halves {
                dot::product(simd, left, right, bias, out);
            } else if orientation == Orientation::Columns
                && left.rows <= columns::MAX_ROWS
                && halves
            {
                columns::product(simd, left, right, bias, out);
            } else {
                let more = more.as_ref();
                blocks::product(simd, kind, left, (right, orientation), more, bias, out);
            }
        }
        return;
    }
    assert!(
        more.is_none() && precision == Precision::Bf16,
        "product: nobody asked whether this can be done"
    );
    // SAFETY: passed on unchanged.
    unsafe { rounded::product(left, right, orientation, bias, out) }
}
