//! Plain Rust: eight lanes in an array, which compilers turn into what the target has.
#![allow(
    unsafe_code,
    reason = "raw loads and stores, as the trait's contract demands"
)]

use half::{bf16, f16};

use super::{Kernel, Simd};

/// The lanes of [`Portable`].
const LANES: usize = 8;

/// Works on every processor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Portable;

#[inline(always)]
fn zip(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

/// Pairwise reduction: lanes `i` and `i + n/2`, then halves again.
#[inline(always)]
fn fold(mut a: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut n = LANES;
    while n > 1 {
        n /= 2;
        for i in 0..n {
            a[i] = f(a[i], a[i + n]);
        }
    }
    a[0]
}

impl Simd for Portable {
    type V = [f32; LANES];
    const LANES: usize = LANES;
    const FUSED: bool = false;
    const TILE_ROWS: usize = 4;
    const TILE_VECS: usize = 2;

    #[inline(never)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }
    #[inline(always)]
    fn prefetch<T>(self, _address: *const T) {}
    #[inline(always)]
    fn splat(self, value: f32) -> Self::V {
        [value; LANES]
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::V {
        // SAFETY: the caller vouches for `LANES` values.
        unsafe { from.cast::<Self::V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_head(self, from: *const f32, n: usize) -> Self::V {
        debug_assert!(n < LANES);
        let mut lanes = [0.0; LANES];
        // SAFETY: the caller vouches for `n < LANES` values.
        unsafe { std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), n) };
        lanes
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> Self::V {
        // SAFETY: the caller vouches for `LANES` values.
        let bits = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        bits.map(|bits| bf16::from_bits(bits).to_f32())
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> Self::V {
        // SAFETY: the caller vouches for `LANES` values.
        let bits = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        bits.map(|bits| f16::from_bits(bits).to_f32())
    }
    #[inline(always)]
    unsafe fn store(self, value: Self::V, to: *mut f32) {
        // SAFETY: the caller vouches for `LANES` values.
        unsafe { to.cast::<Self::V>().write_unaligned(value) }
    }
    #[inline(always)]
    unsafe fn store_head(self, value: Self::V, to: *mut f32, n: usize) {
        debug_assert!(n < LANES);
        // SAFETY: the caller vouches for `n < LANES` values.
        unsafe { std::ptr::copy_nonoverlapping(value.as_ptr(), to, n) }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, value: Self::V, to: *mut u16) {
        let bits = value.map(|value| bf16::from_f32(value).to_bits());
        // SAFETY: the caller vouches for `LANES` values.
        unsafe { to.cast::<[u16; LANES]>().write_unaligned(bits) }
    }
    #[inline(always)]
    unsafe fn store_upper(self, value: Self::V, to: *mut u16) {
        #[allow(clippy::cast_possible_truncation, reason = "16 bits are left")]
        let bits = value.map(|value| (value.to_bits() >> 16) as u16);
        // SAFETY: the caller vouches for `LANES` values.
        unsafe { to.cast::<[u16; LANES]>().write_unaligned(bits) }
    }
    #[inline(always)]
    unsafe fn load_i8(self, from: *const u8) -> Self::V {
        // SAFETY: the caller vouches for `LANES` bytes.
        unsafe { from.cast::<[i8; LANES]>().read_unaligned() }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn look_up(self, [low, high]: [Self::V; 2], codes: *const u8) -> [Self::V; 2] {
        let mut table = [0.0; 2 * LANES];
        table[..LANES].copy_from_slice(&low);
        table[LANES..].copy_from_slice(&high);
        // SAFETY: the caller vouches for `LANES` bytes.
        let codes = unsafe { codes.cast::<[u8; LANES]>().read_unaligned() };
        [
            codes.map(|code| table[usize::from(code >> 4)]),
            codes.map(|code| table[usize::from(code & 15)]),
        ]
    }
    #[inline(always)]
    unsafe fn transpose(
        self,
        (from, from_stride): (*const f32, usize),
        (to, to_stride): (*mut f32, usize),
    ) {
        for i in 0..LANES {
            for j in 0..LANES {
                // SAFETY: `i` and `j` are a row and a column of the caller's matrices.
                unsafe { *to.add(j * to_stride + i) = *from.add(i * from_stride + j) };
            }
        }
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Rounded twice: without the instruction, one rounding is a slow library call.
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn select_lt(self, a: Self::V, b: Self::V, then: Self::V, otherwise: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] < b[i] { then[i] } else { otherwise[i] })
    }
    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        a.map(f32::round_ties_even)
    }
    #[inline(always)]
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the contract bounds n to -126..=128"
    )]
    fn scale_by_power(self, a: Self::V, n: Self::V) -> Self::V {
        // Two factors, because 2¹²⁸ is no f32.
        zip(a, n, |a, n| {
            let n = n as i32;
            let half = n >> 1;
            let power = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
            a * power(half) * power(n - half)
        })
    }
    #[inline(always)]
    fn interleave(self, a: Self::V, b: Self::V) -> [Self::V; 2] {
        let by_turns = |first: usize| {
            std::array::from_fn(|i| {
                if i % 2 == 0 {
                    a[first + i / 2]
                } else {
                    b[first + i / 2]
                }
            })
        };
        [by_turns(0), by_turns(LANES / 2)]
    }
    #[inline(always)]
    fn round_bf16(self, a: Self::V) -> Self::V {
        a.map(|a| bf16::from_f32(a).to_f32())
    }
    #[inline(always)]
    fn sum(self, a: Self::V) -> f32 {
        fold(a, |a, b| a + b)
    }
    #[inline(always)]
    fn largest(self, a: Self::V) -> f32 {
        fold(a, f32::max)
    }
}
