//! Checked access to slices: whole registers, or what is left at the end.
#![allow(
    unsafe_code,
    reason = "raw loads and stores inside bounds checked here"
)]

use std::mem::MaybeUninit;

use super::{Element, Simd};

/// The values from `at` on; lanes past the end of the slice are zero.
#[inline(always)]
pub(crate) fn read<S: Simd, E: Element>(s: S, from: &[E], at: usize) -> S::V {
    let from = &from[at..];
    // SAFETY: as many values are read as the slice has, and no more than a register holds.
    unsafe {
        if from.len() >= S::LANES {
            E::load(s, from.as_ptr())
        } else {
            E::load_head(s, from.as_ptr(), from.len())
        }
    }
}

/// Writes from `at` on; lanes past the end of the slice are dropped.
#[inline(always)]
pub(crate) fn write<S: Simd>(s: S, value: S::V, to: &mut [f32], at: usize) {
    let to = &mut to[at..];
    // SAFETY: as many values are written as the slice has, and no more than a register holds.
    unsafe { store(s, value, to.as_mut_ptr(), to.len()) }
}

/// As [`write`], into memory that holds nothing yet.
#[inline(always)]
pub(crate) fn write_new<S: Simd>(s: S, value: S::V, to: &mut [MaybeUninit<f32>], at: usize) {
    let to = &mut to[at..];
    // SAFETY: as many values are written as the slice has, and no more than a register holds.
    unsafe { store(s, value, to.as_mut_ptr().cast(), to.len()) }
}

/// # Safety
/// `to` must be valid for writing `len` values.
#[inline(always)]
unsafe fn store<S: Simd>(s: S, value: S::V, to: *mut f32, len: usize) {
    // SAFETY: the caller vouches for `len` values.
    unsafe {
        if len >= S::LANES {
            s.store(value, to);
        } else {
            s.store_head(value, to, len);
        }
    }
}
