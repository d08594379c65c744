//! Four-bit codes as bf16 numbers: all that a block can say fits a register of sixteen-bit words,
//! and one permutation looks up 32 codes.
#![allow(
    unsafe_code,
    reason = "vector instructions; raw reads of codes, bounds checked once per part"
)]

use std::arch::x86_64::*;
use std::ops::Range;

use super::decode::check;
use super::format::{Format, FourBit};
use super::native::View;
use crate::simd::Avx512Bf16;

/// Codes that one permutation looks up.
const STEP: usize = 32;

/// Scales that are read at a time.
const SCALES: usize = 64;

/// Writes the numbers of `rows` × `cols`, rounded to bf16, as bits.
///
/// # Panics
/// When the part lies outside the matrix, or `out` has another length.
pub(super) fn decode(
    _simd: Avx512Bf16,
    weight: &View<'_>,
    codebook: &[f32; 16],
    rows: Range<usize>,
    cols: Range<usize>,
    out: &mut [u16],
) {
    check(weight, &rows, &cols, out.len());
    let d_in = weight.shape[1];
    let width = cols.len();
    if out.is_empty() {
        return;
    }
    assert!(((rows.end - 1) * d_in + cols.end).div_ceil(2) <= weight.codes.len());
    // SAFETY: the token proves the instructions, and the codes of every row are there.
    unsafe {
        if width == d_in {
            run(weight, codebook, rows.start * d_in, out);
        } else {
            for (row, out) in rows.zip(out.chunks_exact_mut(width)) {
                run(weight, codebook, row * d_in + cols.start, out);
            }
        }
    }
}

/// The numbers of the flattened matrix from `at` on.
///
/// # Safety
/// The processor must have AVX512-BF16, and the codes of all of `out` be there.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn run(weight: &View<'_>, codebook: &[f32; 16], mut at: usize, mut out: &mut [u16]) {
    let size = weight.block_size;
    let (mut block, mut from) = (at / size, at % size);
    let mut room = [0.0; SCALES];
    while !out.is_empty() {
        let scales = &mut room[..(from + out.len()).div_ceil(size).min(SCALES)];
        weight.scales.read(block, scales);
        block += scales.len();
        let mut scales = &*scales;
        if from == 0 && at.is_multiple_of(2) && size.is_multiple_of(STEP) {
            let (whole, rest) = scales.split_at(scales.len().min(out.len() / size));
            let (numbers, left) = out.split_at_mut(whole.len() * size);
            let codes = &weight.codes[at / 2..][..numbers.len() / 2];
            // SAFETY: the codes of whole blocks, and as many numbers.
            unsafe { blocks(codes.as_ptr(), codebook, whole, size, numbers.as_mut_ptr()) };
            (at, scales, out) = (at + whole.len() * size, rest, left);
        }
        for &scale in scales {
            let len = (size - from).min(out.len());
            let (numbers, rest) = out.split_at_mut(len);
            // SAFETY: passed on unchanged.
            unsafe { segment(weight.codes, codebook, at, scale, numbers) };
            (at, from, out) = (at + len, 0, rest);
        }
    }
}

/// Whole blocks of `size` numbers, a multiple of [`STEP`], one for each scale.
///
/// # Safety
/// The processor must have AVX512-BF16, and both pointers be valid for those numbers.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn blocks(
    mut codes: *const u8,
    codebook: &[f32; 16],
    scales: &[f32],
    size: usize,
    mut to: *mut u16,
) {
    let look_up = LookUp::new();
    for &scale in scales {
        let table = table(codebook, scale);
        // SAFETY: the caller vouches for the numbers.
        unsafe {
            for _ in 0..size / STEP {
                let numbers = look_up.numbers(table, codes);
                _mm512_storeu_si512(to.cast(), numbers);
                (codes, to) = (codes.add(STEP / 2), to.add(STEP));
            }
        }
    }
}

/// Numbers of one block.
///
/// # Safety
/// As [`run`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn segment(codes: &[u8], codebook: &[f32; 16], at: usize, scale: f32, out: &mut [u16]) {
    let number = |at: usize| {
        let number = FourBit::<true>::new(*codebook).number(codes, at, scale);
        half::bf16::from_f32(number).to_bits()
    };
    let mut done = 0;
    if !at.is_multiple_of(2) {
        out[0] = number(at);
        done = 1;
    }
    let (look_up, table) = (LookUp::new(), table(codebook, scale));
    while done + STEP <= out.len() {
        // SAFETY: of codes and numbers `STEP` are left.
        unsafe {
            let numbers = look_up.numbers(table, codes.as_ptr().add((at + done) / 2));
            _mm512_storeu_si512(out.as_mut_ptr().add(done).cast(), numbers);
        }
        done += STEP;
    }
    for (place, out) in out.iter_mut().enumerate().skip(done) {
        *out = number(at + place);
    }
}

/// What codes stand for in a block, twice, so that the fifth bit of an index does not matter.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
#[inline]
fn table(codebook: &[f32; 16], scale: f32) -> __m512i {
    // SAFETY: sixteen numbers are read; both types are 512 bits of which any pattern is valid.
    unsafe {
        let numbers = _mm512_mul_ps(_mm512_loadu_ps(codebook.as_ptr()), _mm512_set1_ps(scale));
        std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(numbers, numbers))
    }
}

/// How 16 bytes become 32 words whose lower four bits are their codes.
#[derive(Clone, Copy)]
struct LookUp {
    /// Each byte of a quarter's four twice, in words of their own.
    bytes: __m512i,
    /// The first code of a byte is its upper half.
    shifts: __m512i,
}

impl LookUp {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    #[inline]
    fn new() -> Self {
        let first = _mm512_set4_epi32(-0x7ffc_7ffd, -0x7ffd_7ffe, -0x7ffe_7fff, -0x7fff_8000);
        let quarter = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
        Self {
            bytes: _mm512_add_epi32(
                first,
                _mm512_mullo_epi32(quarter, _mm512_set1_epi32(0x4_0004)),
            ),
            shifts: _mm512_set1_epi32(4),
        }
    }

    /// The numbers of [`STEP`] codes in their order.
    ///
    /// # Safety
    /// `codes` must be valid for reading 16 bytes.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    #[inline]
    unsafe fn numbers(self, table: __m512i, codes: *const u8) -> __m512i {
        // SAFETY: the caller vouches for the bytes.
        let codes = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(codes.cast()) });
        let codes = _mm512_srlv_epi16(_mm512_shuffle_epi8(codes, self.bytes), self.shifts);
        _mm512_permutexvar_epi16(codes, table)
    }
}
