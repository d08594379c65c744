//! Packed weights as matrices that come out a part at a time.
#![allow(
    unsafe_code,
    reason = "raw reads of codes, bounds checked once per part"
)]

use std::ops::Range;

use half::bf16;

use super::format::{Format, Visit};
use super::native::View;
use crate::cpu::Decode;
#[cfg(target_arch = "x86_64")]
use crate::simd::Avx512Bf16;
use crate::simd::{Kernel, Simd, dispatch};

/// Scales that are read at a time.
const SCALES: usize = 64;

impl Decode for View<'_> {
    fn shape(&self) -> [usize; 2] {
        self.shape
    }

    fn decode(&self, rows: Range<usize>, cols: Range<usize>, out: &mut [f32]) {
        self.visit(Part {
            weight: self,
            rows,
            cols,
            out,
        });
    }

    fn decode_bf16(&self, rows: Range<usize>, cols: Range<usize>, out: &mut [u16]) {
        #[cfg(target_arch = "x86_64")]
        if let (Some(simd), Some(codebook)) = (Avx512Bf16::detect(), self.codebook) {
            super::halves::decode(simd, self, &codebook, rows, cols, out);
            return;
        }
        let rounded = View {
            rounded: true,
            ..*self
        };
        rounded.visit(Part {
            weight: &rounded,
            rows,
            cols,
            out,
        });
    }
}

/// What numbers are written as.
trait Target {
    fn of(number: f32) -> Self;
    /// # Safety
    /// `to` must be valid for writing `LANES` values.
    unsafe fn store<S: Simd>(s: S, value: S::V, to: *mut Self);
}

impl Target for f32 {
    #[inline(always)]
    fn of(number: f32) -> Self {
        number
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, value: S::V, to: *mut Self) {
        // SAFETY: the caller vouches for `LANES` values.
        unsafe { s.store(value, to) }
    }
}

/// The bits of numbers that are bf16 already.
impl Target for u16 {
    #[inline(always)]
    fn of(number: f32) -> Self {
        bf16::from_f32(number).to_bits()
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, value: S::V, to: *mut Self) {
        // SAFETY: the caller vouches for `LANES` values.
        unsafe { s.store_upper(value, to) }
    }
}

/// A part of the matrix and where it goes.
struct Part<'a, T> {
    weight: &'a View<'a>,
    rows: Range<usize>,
    cols: Range<usize>,
    out: &'a mut [T],
}

impl<T: Target> Visit for Part<'_, T> {
    type Output = ();
    fn visit<F: Format>(self, format: F) {
        check(self.weight, &self.rows, &self.cols, self.out.len());
        dispatch(Decoder { part: self, format });
    }
}

/// Makes sure that a part lies in the matrix and fits its target.
pub(super) fn check(weight: &View<'_>, rows: &Range<usize>, cols: &Range<usize>, len: usize) {
    let [d_out, d_in] = weight.shape;
    assert!(
        rows.end <= d_out && cols.end <= d_in,
        "decode: outside the matrix"
    );
    assert_eq!(len, rows.len() * cols.len(), "decode: length");
}

struct Decoder<'a, F, T> {
    part: Part<'a, T>,
    format: F,
}

impl<F: Format, T: Target> Kernel for Decoder<'_, F, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Part {
            weight,
            rows,
            cols,
            out,
        } = self.part;
        let d_in = weight.shape[1];
        if cols.len() == d_in {
            run(s, weight, self.format, rows.start * d_in, out);
        } else {
            for (row, out) in rows.zip(out.chunks_exact_mut(cols.len().max(1))) {
                run(s, weight, self.format, row * d_in + cols.start, out);
            }
        }
    }
}

/// Writes the numbers of the flattened matrix from `at` on.
#[inline(always)]
pub(super) fn decode_run<S: Simd, F: Format>(
    s: S,
    weight: &View<'_>,
    format: F,
    at: usize,
    out: &mut [f32],
) {
    run(s, weight, format, at, out);
}

#[inline(always)]
fn run<S: Simd, F: Format, T: Target>(
    s: S,
    weight: &View<'_>,
    format: F,
    mut at: usize,
    mut out: &mut [T],
) {
    assert!((at + out.len()).div_ceil(F::PER_BYTE) <= weight.codes.len());
    let (mut block, mut from) = (at / weight.block_size, at % weight.block_size);
    while !out.is_empty() {
        let mut scales = [0.0; SCALES];
        let scales = &mut scales[..(from + out.len()).div_ceil(weight.block_size).min(SCALES)];
        weight.scales.read(block, scales);
        block += scales.len();
        for &scale in &*scales {
            let len = (weight.block_size - from).min(out.len());
            let (numbers, rest) = out.split_at_mut(len);
            segment(s, weight.codes, format, at, scale, numbers);
            (at, from, out) = (at + len, 0, rest);
        }
    }
}

/// Writes numbers of one block.
#[inline(always)]
fn segment<S: Simd, F: Format, T: Target>(
    s: S,
    codes: &[u8],
    format: F,
    at: usize,
    scale: f32,
    out: &mut [T],
) {
    let step = 2 * S::LANES;
    let mut done = 0;
    if !at.is_multiple_of(F::PER_BYTE) {
        out[0] = T::of(format.number(codes, at, scale));
        done = 1;
    }
    if out.len() - done >= step {
        let block = format.block(s, scale);
        let codes = codes[(at + done) / F::PER_BYTE..].as_ptr();
        let first = done;
        while done + step <= out.len() {
            // SAFETY: `run` checked that the codes of all of `out` are there, and `step` of its
            // numbers are left.
            unsafe {
                let numbers = F::read(s, block, codes.add((done - first) / F::PER_BYTE));
                let numbers = F::in_order(s, numbers);
                T::store(s, numbers[0], out.as_mut_ptr().add(done));
                T::store(s, numbers[1], out.as_mut_ptr().add(done + S::LANES));
            }
            done += step;
        }
    }
    for (place, out) in out.iter_mut().enumerate().skip(done) {
        *out = T::of(format.number(codes, at + place, scale));
    }
}
