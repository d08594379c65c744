//! The output head, some of its rows at a time: the only place here that multiplies matrices.
#![allow(unsafe_code, reason = "products write into parts of larger buffers")]

use std::ops::Range;

use burn::tensor::DType;
use burn_flex::FlexTensor;
use gemm::Parallelism;
use half::bf16;

use crate::cpu::{Bf16Rows, Decode, F32Rows, RowRange, Rows, rounded};
use crate::linear::matrix::{Matrix, product_into};
use crate::linear::product16::{Operand, Orientation};
use crate::precision::Precision;
use crate::simd::{Kernel, Simd, dispatch};

/// A weight `[vocab, d_model]` in f32, bf16 or f16, and a bias.
#[derive(Debug, Clone)]
pub(super) struct Head {
    weight: Rows,
    dtype: DType,
    bias: Option<Rows>,
    precision: Precision,
}

/// The hidden states of a chunk, for products in blocks.
#[derive(Debug)]
pub(super) struct Hidden {
    /// In bf16, if that is the head's precision.
    rounded: Vec<bf16>,
    shape: [usize; 2],
    left: Operand,
}

impl Head {
    pub(super) fn new(weight: FlexTensor, bias: Option<FlexTensor>, precision: Precision) -> Self {
        Self {
            dtype: weight.dtype(),
            weight: Rows::new(weight),
            bias: bias.map(Rows::new),
            precision,
        }
    }

    pub(super) fn vocab(&self) -> usize {
        self.weight.rows()
    }

    pub(super) fn width(&self) -> usize {
        self.weight.width()
    }

    /// Rounds numbers as the products want them.
    pub(super) fn round(&self, values: &mut [f32]) {
        if self.precision == Precision::Bf16 {
            dispatch(RoundToBf16(values));
        }
    }

    /// The rows `h` of `d_model` packed for products in blocks, if the processor has them.
    pub(super) fn hidden(&self, h: &[f32]) -> Option<Hidden> {
        let shape = [h.len() / self.width().max(1), self.width()];
        let rounded = match self.precision {
            Precision::Full => Vec::new(),
            Precision::Bf16 => rounded(h),
        };
        let left = match self.precision {
            Precision::Full => Operand::of(h, shape, shape[1], Precision::Full)?,
            Precision::Bf16 => Operand::rows(&rounded, shape)?,
        };
        Some(Hidden {
            rounded,
            shape,
            left,
        })
    }

    /// `out = h·Wᵀ + b` for the `classes`; rows of `out` start `stride` apart. `h` holds rounded
    /// rows of `d_model`, `hidden` the same if there is such a form, `block` is room for a
    /// converted part of the weight.
    pub(super) fn logits(
        &self,
        (h, hidden): (&[f32], Option<&Hidden>),
        classes: Range<usize>,
        (out, stride): (&mut [f32], usize),
        block: &mut Vec<f32>,
    ) {
        let (rows, count) = (h.len() / self.width().max(1), classes.len());
        assert!(count <= stride && out.len() >= rows * stride);
        if let Some(bias) = &self.bias {
            let bias = &bias.data::<f32>()[classes.clone()];
            for out in out.chunks_exact_mut(stride).take(rows) {
                out[..count].copy_from_slice(bias);
            }
        }
        let add = self.bias.is_some();
        if let Some(hidden) = hidden {
            let weight = self.rows(classes);
            // SAFETY: `out` holds `rows` rows of `count ≤ stride` values, checked above.
            unsafe {
                let out = (out.as_mut_ptr(), stride);
                hidden.left.multiply(&weight, Orientation::Rows, out, add);
            }
            return;
        }
        let h = Matrix::new(h, [rows, self.width()], [self.width(), 1]);
        let weight = self.part(classes, block).transposed();
        // SAFETY: `out` holds `rows` rows of `count ≤ stride` values, checked above.
        unsafe {
            let out = (out.as_mut_ptr(), stride);
            product_into(h, weight, out, add, Parallelism::None);
        }
    }

    /// `dh += dz·W` for the `classes`; rows of `dz`, rounded, start `stride` apart.
    pub(super) fn pull(
        &self,
        (dz, stride): (&[f32], usize),
        classes: Range<usize>,
        dh: &mut [f32],
        block: &mut Vec<f32>,
    ) {
        let width = self.width();
        let rows = dh.len() / width.max(1);
        if let Some(dz) = Operand::of(dz, [rows, classes.len()], stride, self.precision) {
            let weight = self.rows(classes);
            // SAFETY: `dh` holds `rows` rows of `width` values.
            unsafe {
                dz.multiply(
                    &weight,
                    Orientation::Columns,
                    (dh.as_mut_ptr(), width),
                    true,
                )
            };
            return;
        }
        let dz = Matrix::new(dz, [rows, classes.len()], [stride, 1]);
        let weight = self.part(classes, block);
        // SAFETY: `dh` holds `rows` rows of `width` values.
        unsafe {
            product_into(
                dz,
                weight,
                (dh.as_mut_ptr(), width),
                true,
                Parallelism::None,
            )
        };
    }

    /// `dw += dzᵀ·h`, for as many classes as `dw` has rows; `dz` and `h` are rounded.
    pub(super) fn weight_gradient(
        &self,
        (dz, stride): (&[f32], usize),
        (h, hidden): (&[f32], Option<&Hidden>),
        dw: &mut [f32],
    ) {
        let width = self.width();
        let (rows, count) = (h.len() / width.max(1), dw.len() / width.max(1));
        if let Some(hidden) = hidden
            && let Some(dz) = Operand::columns(dz, [count, rows], stride, self.precision)
        {
            let (way, to) = (Orientation::Columns, (dw.as_mut_ptr(), width));
            let shape = hidden.shape;
            // SAFETY: `dw` holds `count` rows of `width` values.
            unsafe {
                match self.precision {
                    Precision::Full => dz.multiply(&F32Rows { values: h, shape }, way, to, true),
                    Precision::Bf16 => {
                        let values = &hidden.rounded;
                        dz.multiply(&Bf16Rows { values, shape }, way, to, true);
                    }
                }
            }
            return;
        }
        let dz = Matrix::new(dz, [rows, count], [stride, 1]).transposed();
        let h = Matrix::new(h, [rows, width], [width, 1]);
        // SAFETY: `dw` holds `count` rows of `width` values.
        unsafe { product_into(dz, h, (dw.as_mut_ptr(), width), true, Parallelism::None) };
    }

    /// Some rows of the weight, as they are.
    fn rows(&self, classes: Range<usize>) -> RowRange<'_> {
        RowRange {
            matrix: &self.weight,
            rows: classes,
        }
    }

    /// Some rows of the weight in f32, in place where they are.
    fn part<'a>(&'a self, classes: Range<usize>, block: &'a mut Vec<f32>) -> Matrix<'a> {
        let shape = [classes.len(), self.width()];
        let stride = self.weight.stride();
        let from = classes.start * stride;
        let full = self.precision == Precision::Full;
        if self.dtype == DType::F32 && full {
            return Matrix::new(&self.weight.data::<f32>()[from..], shape, [stride, 1]);
        }
        block.resize(shape[0] * shape[1], 0.0);
        self.weight.decode(classes, 0..shape[1], block);
        if self.dtype != DType::BF16 {
            self.round(block);
        }
        Matrix::new(block, shape, [shape[1], 1])
    }
}

/// Rounds to the nearest bf16, ties to even, in place; NaN stays NaN.
struct RoundToBf16<'a>(&'a mut [f32]);

impl Kernel for RoundToBf16<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for value in self.0 {
            let bits = value.to_bits();
            let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000;
            let nan = (bits | 0x0040_0000) & 0xffff_0000;
            *value = f32::from_bits(if value.is_nan() { nan } else { rounded });
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn rounding_is_that_of_bf16() {
        let values = [
            0.0,
            -0.0,
            1.0,
            1.0 + 1.0 / 256.0,
            1.0 + 3.0 / 256.0,
            -1.007_812_6,
            3.4e38,
            f32::INFINITY,
            f32::NEG_INFINITY,
            1e-40,
            0.1,
            -123.456,
        ];
        let mut rounded = values;
        dispatch(RoundToBf16(&mut rounded));
        for (value, rounded) in values.into_iter().zip(rounded) {
            assert_eq!(
                rounded.to_bits(),
                bf16::from_f32(value).to_f32().to_bits(),
                "{value}"
            );
        }
        let mut nan = [f32::NAN, f32::from_bits(0x7f80_0001)];
        dispatch(RoundToBf16(&mut nan));
        assert!(nan.iter().all(|value| value.is_nan()));
    }
}
