//! How codes become numbers, a register at a time.
#![allow(unsafe_code, reason = "raw loads, bounds stated per function")]

use half::bf16;

use super::native::View;
use crate::simd::Simd;

/// Scales within which `a / 127` comes out of multiplications with the bits of a division: none
/// of the intermediate values leaves the normal numbers, whatever the code.
const EASY: std::ops::RangeInclusive<f32> = 1e-30..=1e30;

/// The meaning of the codes of a weight.
pub(super) trait Format: Copy + Send + Sync {
    /// The codes in a byte.
    const PER_BYTE: usize;
    /// What the numbers of one block share.
    type Block<S: Simd>: Copy;

    fn block<S: Simd>(self, s: S, scale: f32) -> Self::Block<S>;

    /// The numbers of `2·LANES` codes, in the order of [`Format::place`].
    ///
    /// # Safety
    /// `codes` must be valid for reading those codes.
    unsafe fn read<S: Simd>(s: S, block: Self::Block<S>, codes: *const u8) -> [S::V; 2];

    /// The same numbers in the order of their codes.
    fn in_order<S: Simd>(s: S, numbers: [S::V; 2]) -> [S::V; 2];

    /// Where [`Format::read`] has the number of code `at` among `2·lanes`.
    fn place(at: usize, lanes: usize) -> usize;

    /// The number of code `at`.
    fn number(self, codes: &[u8], at: usize, scale: f32) -> f32;
}

/// `codebook[code]·scale`, of two codes a byte the upper half first.
#[derive(Debug, Clone, Copy)]
pub(super) struct FourBit<const ROUNDED: bool> {
    codebook: [f32; 16],
}

impl<const ROUNDED: bool> FourBit<ROUNDED> {
    /// The format with the numbers that codes stand for.
    pub(super) fn new(codebook: [f32; 16]) -> Self {
        Self { codebook }
    }
}

impl<const ROUNDED: bool> Format for FourBit<ROUNDED> {
    const PER_BYTE: usize = 2;
    /// The 16 numbers of the block, see [`Simd::look_up`].
    type Block<S: Simd> = [S::V; 2];

    #[inline(always)]
    fn block<S: Simd>(self, s: S, scale: f32) -> [S::V; 2] {
        let scale = s.splat(scale);
        // SAFETY: the second half of the codebook is left where a register holds all of it.
        let [mut low, mut high] = unsafe {
            let from = self.codebook.as_ptr();
            [
                s.mul(s.load(from), scale),
                s.mul(s.load(from.add(16 - S::LANES)), scale),
            ]
        };
        if ROUNDED {
            [low, high] = [s.round_bf16(low), s.round_bf16(high)];
        }
        [low, high]
    }

    #[inline(always)]
    unsafe fn read<S: Simd>(s: S, block: [S::V; 2], codes: *const u8) -> [S::V; 2] {
        // SAFETY: `2·LANES` codes are `LANES` bytes.
        unsafe { s.look_up(block, codes) }
    }

    #[inline(always)]
    fn in_order<S: Simd>(s: S, [upper, lower]: [S::V; 2]) -> [S::V; 2] {
        s.interleave(upper, lower)
    }

    #[inline(always)]
    fn place(at: usize, lanes: usize) -> usize {
        at / 2 + at % 2 * lanes
    }

    #[inline(always)]
    fn number(self, codes: &[u8], at: usize, scale: f32) -> f32 {
        let code = codes[at / 2] >> (4 - at % 2 * 4) & 15;
        round(self.codebook[usize::from(code)] * scale, ROUNDED)
    }
}

/// `code·scale / 127` of signed bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Int8<const ROUNDED: bool>;

impl<const ROUNDED: bool> Format for Int8<ROUNDED> {
    const PER_BYTE: usize = 1;
    /// The scale, and whether it is [`EASY`].
    type Block<S: Simd> = (S::V, bool);

    #[inline(always)]
    fn block<S: Simd>(self, s: S, scale: f32) -> (S::V, bool) {
        (s.splat(scale), EASY.contains(&scale))
    }

    #[inline(always)]
    unsafe fn read<S: Simd>(s: S, (scale, easy): (S::V, bool), codes: *const u8) -> [S::V; 2] {
        // SAFETY: `2·LANES` codes are as many bytes.
        let codes = unsafe { [s.load_i8(codes), s.load_i8(codes.add(S::LANES))] };
        let mut numbers = [
            over_127(s, s.mul(codes[0], scale), easy),
            over_127(s, s.mul(codes[1], scale), easy),
        ];
        if ROUNDED {
            numbers = [s.round_bf16(numbers[0]), s.round_bf16(numbers[1])];
        }
        numbers
    }

    #[inline(always)]
    fn in_order<S: Simd>(_: S, numbers: [S::V; 2]) -> [S::V; 2] {
        numbers
    }

    #[inline(always)]
    fn place(at: usize, _: usize) -> usize {
        at
    }

    #[inline(always)]
    fn number(self, codes: &[u8], at: usize, scale: f32) -> f32 {
        round(f32::from(codes[at].cast_signed()) * scale / 127.0, ROUNDED)
    }
}

/// `a / 127`, rounded once.
///
/// A quotient `q` that is off by a unit in the last place is set right by the rest that it
/// leaves, `q + (a − 127·q) / 127`: the rest is exact, and so small that the error of multiplying
/// it by the rounded reciprocal is lost in the last rounding.
#[inline(always)]
fn over_127<S: Simd>(s: S, a: S::V, easy: bool) -> S::V {
    if S::FUSED && easy {
        let reciprocal = s.splat(1.0 / 127.0);
        let quotient = s.mul(a, reciprocal);
        let rest = s.mul_add(s.splat(-127.0), quotient, a);
        s.mul_add(rest, reciprocal, quotient)
    } else {
        s.div(a, s.splat(127.0))
    }
}

fn round(number: f32, rounded: bool) -> f32 {
    if rounded {
        bf16::from_f32(number).to_f32()
    } else {
        number
    }
}

/// A computation over codes of any format.
pub(super) trait Visit {
    type Output;
    fn visit<F: Format>(self, format: F) -> Self::Output;
}

impl View<'_> {
    /// Runs `visit` with the format of this weight.
    pub(super) fn visit<V: Visit>(&self, visit: V) -> V::Output {
        match (self.codebook, self.rounded) {
            (Some(codebook), false) => visit.visit(FourBit::<false> { codebook }),
            (Some(codebook), true) => visit.visit(FourBit::<true> { codebook }),
            (None, false) => visit.visit(Int8::<false>),
            (None, true) => visit.visit(Int8::<true>),
        }
    }
}
