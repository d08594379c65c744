//! The number types a weight may have in memory.
#![allow(unsafe_code, reason = "raw loads, as the trait's contract demands")]

use half::{bf16, f16};

use super::Simd;

/// A float type that converts exactly to `f32` while it is loaded.
pub(crate) trait Element: Copy + Send + Sync + 'static {
    fn to_f32(self) -> f32;
    /// # Safety
    /// `from` must be valid for reading `LANES` values.
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::V;
    /// Lanes past `n` are zero.
    ///
    /// # Safety
    /// `from` must be valid for reading `n < LANES` values.
    #[inline(always)]
    unsafe fn load_head<S: Simd>(simd: S, from: *const Self, n: usize) -> S::V {
        let mut lanes = [0f32; MAX_LANES];
        for (i, lane) in lanes.iter_mut().enumerate().take(n) {
            // SAFETY: the caller vouches for `n` values.
            *lane = unsafe { *from.add(i) }.to_f32();
        }
        // SAFETY: `lanes` has at least `LANES` values.
        unsafe { simd.load(lanes.as_ptr()) }
    }
}

/// No instruction set has more lanes.
const MAX_LANES: usize = 16;

impl Element for f32 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::V {
        // SAFETY: the caller vouches for `LANES` values.
        unsafe { simd.load(from) }
    }
    #[inline(always)]
    unsafe fn load_head<S: Simd>(simd: S, from: *const Self, n: usize) -> S::V {
        // SAFETY: the caller vouches for `n` values.
        unsafe { simd.load_head(from, n) }
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::V {
        // SAFETY: the caller vouches for `LANES` values; bf16 is a transparent u16.
        unsafe { simd.load_bf16(from.cast()) }
    }
}

impl Element for f16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::V {
        // SAFETY: the caller vouches for `LANES` values; f16 is a transparent u16.
        unsafe { simd.load_f16(from.cast()) }
    }
}
