//! A left operand that is packed once and multiplied piece by piece, on threads of the caller's.
#![allow(unsafe_code, reason = "products write into parts of larger buffers")]

use half::bf16;

use super::Orientation;
#[cfg(target_arch = "x86_64")]
use super::left::{Left, Values};
#[cfg(target_arch = "x86_64")]
use super::{blocks, kind, pack_left::PackedLeft, tile::Kind};
use crate::cpu::Decode;
use crate::precision::Precision;
#[cfg(target_arch = "x86_64")]
use crate::simd::Avx512Bf16;

/// A packed left operand; it exists only where the processor has AVX512-BF16.
#[cfg(target_arch = "x86_64")]
#[derive(Debug)]
pub(crate) struct Operand {
    simd: Avx512Bf16,
    packed: PackedLeft,
    depth: usize,
}

/// There is none on this processor.
#[cfg(not(target_arch = "x86_64"))]
#[derive(Debug)]
pub(crate) enum Operand {}

#[cfg(target_arch = "x86_64")]
impl Operand {
    /// Rows of bf16 numbers, side by side.
    pub(crate) fn rows(values: &[bf16], shape: [usize; 2]) -> Option<Self> {
        Self::new(Kind::Bf16, Values::Bf16(values), shape, shape[1], false)
    }

    /// Columns of f32 numbers for products as `precision` says: the transpose of rows `stride`
    /// apart, of the shape `[rows, depth]` once transposed.
    pub(crate) fn columns(
        values: &[f32],
        shape: [usize; 2],
        stride: usize,
        precision: Precision,
    ) -> Option<Self> {
        Self::new(kind(precision), Values::F32(values), shape, stride, true)
    }

    /// Rows of f32 numbers `stride` apart, for products as `precision` says.
    pub(crate) fn of(
        values: &[f32],
        shape: [usize; 2],
        stride: usize,
        precision: Precision,
    ) -> Option<Self> {
        Self::new(kind(precision), Values::F32(values), shape, stride, false)
    }

    fn new(
        kind: Kind,
        values: Values<'_>,
        [rows, depth]: [usize; 2],
        stride: usize,
        transposed: bool,
    ) -> Option<Self> {
        let simd = Avx512Bf16::detect()?;
        let (lines, width) = if transposed {
            (depth, rows)
        } else {
            (rows, depth)
        };
        assert!(lines == 0 || (lines - 1) * stride + width <= values.len());
        let left = Left {
            values,
            rows,
            depth,
            stride,
            transposed,
            tensor: None,
        };
        let packed = PackedLeft::new(simd, kind, &left, 0..rows, 0..depth);
        Some(Self {
            simd,
            packed,
            depth,
        })
    }

    /// Writes the product with `right` to rows `stride` apart, or adds it.
    ///
    /// # Safety
    /// `out` must be valid for writing, and reading if `add`, the rows of the operand and the
    /// columns of the product.
    ///
    /// # Panics
    /// When the inner dimensions differ.
    pub(crate) unsafe fn multiply(
        &self,
        right: &impl Decode,
        orientation: Orientation,
        out: (*mut f32, usize),
        add: bool,
    ) {
        let ((Orientation::Rows, [_, depth]) | (Orientation::Columns, [depth, _])) =
            (orientation, right.shape());
        assert_eq!(self.depth, depth, "product: inner dimensions");
        // SAFETY: passed on unchanged.
        unsafe { blocks::on_this_thread(self.simd, &self.packed, right, orientation, out, add) };
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Operand {
    pub(crate) fn rows(_: &[bf16], _: [usize; 2]) -> Option<Self> {
        None
    }

    pub(crate) fn columns(_: &[f32], _: [usize; 2], _: usize, _: Precision) -> Option<Self> {
        None
    }

    pub(crate) fn of(_: &[f32], _: [usize; 2], _: usize, _: Precision) -> Option<Self> {
        None
    }

    /// # Safety
    /// None: there is no operand.
    pub(crate) unsafe fn multiply(
        &self,
        _: &impl Decode,
        _: Orientation,
        _: (*mut f32, usize),
        _: bool,
    ) {
        match *self {}
    }
}
