//! Dense rows as a matrix that comes out a part at a time.
#![allow(
    unsafe_code,
    reason = "raw loads and stores inside bounds checked here"
)]

use std::ops::Range;

use burn::tensor::DType;
use burn_flex::FlexTensor;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use super::{Decode, Rows, Stored, tensor};
use crate::simd::{Kernel, Simd, dispatch};

/// Numbers that one task converts.
const TASK: usize = 64 * 1024;

/// Of f32, bf16 or f16.
impl Decode for Rows {
    fn shape(&self) -> [usize; 2] {
        [self.rows(), self.width()]
    }

    fn decode(&self, rows: Range<usize>, cols: Range<usize>, out: &mut [f32]) {
        match self.dtype() {
            DType::BF16 => convert::<bf16, _>(self, rows, cols, out),
            DType::F16 => convert::<f16, _>(self, rows, cols, out),
            _ => convert::<f32, _>(self, rows, cols, out),
        }
    }

    fn decode_bf16(&self, rows: Range<usize>, cols: Range<usize>, out: &mut [u16]) {
        match self.dtype() {
            DType::BF16 => copy(self, rows, cols, out),
            DType::F16 => convert::<f16, _>(self, rows, cols, out),
            _ => convert::<f32, _>(self, rows, cols, out),
        }
    }

    fn bf16_rows(&self) -> Option<(&[bf16], usize)> {
        (self.dtype() == DType::BF16).then(|| (self.data(), self.stride()))
    }

    fn f32_rows(&self) -> Option<(&[f32], usize)> {
        (self.dtype() == DType::F32).then(|| (self.data(), self.stride()))
    }
}

/// Some neighbouring rows of a matrix.
#[derive(Debug)]
pub(crate) struct RowRange<'a> {
    pub(crate) matrix: &'a Rows,
    pub(crate) rows: Range<usize>,
}

impl RowRange<'_> {
    fn shifted(&self, rows: Range<usize>) -> Range<usize> {
        assert!(rows.end <= self.rows.len());
        self.rows.start + rows.start..self.rows.start + rows.end
    }
}

impl Decode for RowRange<'_> {
    fn shape(&self) -> [usize; 2] {
        [self.rows.len(), self.matrix.width()]
    }

    fn decode(&self, rows: Range<usize>, cols: Range<usize>, out: &mut [f32]) {
        self.matrix.decode(self.shifted(rows), cols, out);
    }

    fn decode_bf16(&self, rows: Range<usize>, cols: Range<usize>, out: &mut [u16]) {
        self.matrix.decode_bf16(self.shifted(rows), cols, out);
    }

    fn bf16_rows(&self) -> Option<(&[bf16], usize)> {
        let (values, stride) = self.matrix.bf16_rows()?;
        Some((&values[self.rows.start * stride..], stride))
    }

    fn f32_rows(&self) -> Option<(&[f32], usize)> {
        let (values, stride) = self.matrix.f32_rows()?;
        Some((&values[self.rows.start * stride..], stride))
    }
}

/// Dense rows of bf16 numbers.
#[derive(Debug)]
pub(crate) struct Bf16Rows<'a> {
    pub(crate) values: &'a [bf16],
    pub(crate) shape: [usize; 2],
}

impl Decode for Bf16Rows<'_> {
    fn shape(&self) -> [usize; 2] {
        self.shape
    }

    fn decode(&self, rows: Range<usize>, cols: Range<usize>, out: &mut [f32]) {
        self.each(rows, cols, out, |from, to| *to = from.to_f32());
    }

    fn decode_bf16(&self, rows: Range<usize>, cols: Range<usize>, out: &mut [u16]) {
        self.each(rows, cols, out, |from, to| *to = from.to_bits());
    }

    fn bf16_rows(&self) -> Option<(&[bf16], usize)> {
        Some((self.values, self.shape[1]))
    }
}

/// Dense rows of f32 numbers.
#[derive(Debug)]
pub(crate) struct F32Rows<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) shape: [usize; 2],
}

impl Decode for F32Rows<'_> {
    fn shape(&self) -> [usize; 2] {
        self.shape
    }

    fn decode(&self, rows: Range<usize>, cols: Range<usize>, out: &mut [f32]) {
        self.each(rows, cols, out);
    }

    fn decode_bf16(&self, rows: Range<usize>, cols: Range<usize>, out: &mut [u16]) {
        self.each(rows, cols, out);
    }

    fn f32_rows(&self) -> Option<(&[f32], usize)> {
        Some((self.values, self.shape[1]))
    }
}

impl F32Rows<'_> {
    fn each<T: Target>(&self, rows: Range<usize>, cols: Range<usize>, out: &mut [T]) {
        assert!(rows.end <= self.shape[0] && cols.end <= self.shape[1]);
        assert_eq!(out.len(), rows.len() * cols.len());
        for (row, to) in rows.zip(out.chunks_exact_mut(cols.len().max(1))) {
            let from = &self.values[row * self.shape[1]..][cols.clone()];
            dispatch(Convert { from, to });
        }
    }
}

impl Bf16Rows<'_> {
    fn each<T>(
        &self,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [T],
        write: impl Fn(bf16, &mut T),
    ) {
        assert!(rows.end <= self.shape[0] && cols.end <= self.shape[1]);
        assert_eq!(out.len(), rows.len() * cols.len());
        for (row, to) in rows.zip(out.chunks_exact_mut(cols.len().max(1))) {
            let from = &self.values[row * self.shape[1]..][cols.clone()];
            from.iter().zip(to).for_each(|(from, to)| write(*from, to));
        }
    }
}

/// `values` rounded to bf16, to nearest, ties to even.
pub(crate) fn rounded(values: &[f32]) -> Vec<bf16> {
    let mut bits = vec![0u16; values.len()];
    dispatch(Convert {
        from: values,
        to: &mut bits,
    });
    bits.into_iter().map(bf16::from_bits).collect()
}

/// The rows, dense and rounded to bf16.
pub(crate) fn rounded_rows(rows: &Rows) -> Vec<bf16> {
    let width = rows.width().max(1);
    let mut values = vec![bf16::ZERO; rows.rows() * rows.width()];
    let per_task = TASK.div_ceil(width);
    let tasks = values.par_chunks_mut(per_task * width).enumerate();
    tasks.for_each(|(task, to)| {
        let first = task * per_task;
        let part = first..first + to.len() / width;
        rows.decode_bf16(part, 0..rows.width(), to.reinterpret_cast_mut());
    });
    values
}

/// The numbers in f32, as a dense tensor of the same shape.
pub(crate) fn widened(x: FlexTensor) -> FlexTensor {
    let shape = x.layout().shape().clone();
    let rows = Rows::new(x);
    let width = rows.width().max(1);
    let mut values = vec![0.0; shape.num_elements()];
    let per_task = TASK.div_ceil(width);
    let tasks = values.par_chunks_mut(per_task * width).enumerate();
    tasks.for_each(|(task, to)| {
        let first = task * per_task;
        rows.decode(first..first + to.len() / width, 0..rows.width(), to);
    });
    tensor(values, shape)
}

/// Calls `each` with the values of every row of the part and where they go.
fn rows_of<E: Stored, T>(
    view: &Rows,
    rows: Range<usize>,
    cols: &Range<usize>,
    out: &mut [T],
    mut each: impl FnMut(&[E], &mut [T]),
) {
    assert!(rows.end <= view.rows() && cols.end <= view.width());
    assert_eq!(out.len(), rows.len() * cols.len());
    let data = view.data::<E>();
    for (row, to) in rows.zip(out.chunks_exact_mut(cols.len().max(1))) {
        each(&data[row * view.stride()..][cols.clone()], to);
    }
}

fn copy(view: &Rows, rows: Range<usize>, cols: Range<usize>, out: &mut [u16]) {
    rows_of::<bf16, _>(view, rows, &cols, out, |from, to| {
        to.iter_mut()
            .zip(from)
            .for_each(|(to, from)| *to = from.to_bits());
    });
}

fn convert<E: Stored, T: Target>(
    view: &Rows,
    rows: Range<usize>,
    cols: Range<usize>,
    out: &mut [T],
) {
    rows_of::<E, _>(view, rows, &cols, out, |from, to| {
        dispatch(Convert { from, to });
    });
}

/// What a float type is converted to.
trait Target: Copy {
    fn from_f32(value: f32) -> Self;
    /// # Safety
    /// `to` must be valid for writing `LANES` values.
    unsafe fn store<S: Simd>(s: S, value: S::V, to: *mut Self);
}

impl Target for f32 {
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, value: S::V, to: *mut Self) {
        // SAFETY: the caller vouches for `LANES` values.
        unsafe { s.store(value, to) }
    }
}

/// bf16 as bits.
impl Target for u16 {
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        bf16::from_f32(value).to_bits()
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, value: S::V, to: *mut Self) {
        // SAFETY: the caller vouches for `LANES` values.
        unsafe { s.store_bf16(value, to) }
    }
}

/// Converts a slice to another of the same length.
struct Convert<'a, E, T> {
    from: &'a [E],
    to: &'a mut [T],
}

impl<E: Stored, T: Target> Kernel for Convert<'_, E, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let whole = self.to.len() - self.to.len() % S::LANES;
        for at in (0..whole).step_by(S::LANES) {
            // SAFETY: both slices have `LANES` values from `at` on.
            unsafe {
                let value = E::load(s, self.from[at..][..S::LANES].as_ptr());
                T::store(s, value, self.to[at..][..S::LANES].as_mut_ptr());
            }
        }
        for (from, to) in self.from[whole..].iter().zip(&mut self.to[whole..]) {
            *to = T::from_f32(from.to_f32());
        }
    }
}
