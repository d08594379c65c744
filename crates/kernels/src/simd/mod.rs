//! Vector arithmetic on `f32` lanes, one implementation per instruction set, chosen at run time.
//!
//! A [`Simd`] value is a token: it exists only where its instruction set was detected, so its
//! methods are safe to call. Kernels are generic over the token and run through [`dispatch`],
//! which compiles them once per instruction set.

#![allow(
    unsafe_code,
    reason = "declares the raw loads and stores of the instruction sets"
)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512bf16;
mod element;
mod math;
mod portable;
mod product;
mod slices;
#[cfg(test)]
pub(crate) mod tests;

#[cfg(target_arch = "x86_64")]
use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx512bf16::Avx512Bf16;
pub(crate) use element::Element;
pub(crate) use math::{exp, sigmoid, tanh};
pub(crate) use portable::Portable;
pub(crate) use product::{Panels, Strided, dot_rows, product};
pub(crate) use slices::{read, write, write_new};

/// Lane-wise `f32` arithmetic of one instruction set.
///
/// Every method is `#[inline(always)]` so that it becomes part of a function compiled for the
/// instruction set.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// A register of `LANES` values.
    type V: Copy;
    /// Values in a register.
    const LANES: usize;
    /// Whether [`mul_add`](Self::mul_add) rounds once.
    const FUSED: bool;
    /// Rows and registers per row of the accumulator tile of [`product()`].
    const TILE_ROWS: usize;
    /// See [`Self::TILE_ROWS`].
    const TILE_VECS: usize;

    /// Runs a kernel in a function of its own, compiled for this instruction set.
    fn call<K: Kernel>(self, kernel: K) -> K::Output;

    /// Asks for a cache line ahead of its use; any address will do.
    fn prefetch<T>(self, address: *const T);

    fn splat(self, value: f32) -> Self::V;
    /// # Safety
    /// `from` must be valid for reading `LANES` values.
    unsafe fn load(self, from: *const f32) -> Self::V;
    /// Lanes past `n` are zero.
    ///
    /// # Safety
    /// `from` must be valid for reading `n < LANES` values.
    unsafe fn load_head(self, from: *const f32, n: usize) -> Self::V;
    /// # Safety
    /// `from` must be valid for reading `LANES` bf16 values.
    unsafe fn load_bf16(self, from: *const u16) -> Self::V;
    /// # Safety
    /// `from` must be valid for reading `LANES` f16 values.
    unsafe fn load_f16(self, from: *const u16) -> Self::V;
    /// # Safety
    /// `to` must be valid for writing `LANES` values.
    unsafe fn store(self, value: Self::V, to: *mut f32);
    /// # Safety
    /// `to` must be valid for writing `n < LANES` values.
    unsafe fn store_head(self, value: Self::V, to: *mut f32, n: usize);
    /// Rounds to bf16, to nearest, ties to even; NaN stays NaN.
    ///
    /// # Safety
    /// `to` must be valid for writing `LANES` bf16 values.
    unsafe fn store_bf16(self, value: Self::V, to: *mut u16);
    /// Writes the upper halves of the bits: of values that are bf16 already, all there is.
    ///
    /// # Safety
    /// `to` must be valid for writing `LANES` bf16 values.
    unsafe fn store_upper(self, value: Self::V, to: *mut u16);
    /// Signed bytes.
    ///
    /// # Safety
    /// `from` must be valid for reading `LANES` bytes.
    unsafe fn load_i8(self, from: *const u8) -> Self::V;
    /// What the upper and what the lower halves of `LANES` bytes stand for in a table of 16
    /// values: its first `LANES`, then, with eight lanes, the others.
    ///
    /// # Safety
    /// `codes` must be valid for reading `LANES` bytes.
    unsafe fn look_up(self, table: [Self::V; 2], codes: *const u8) -> [Self::V; 2];
    /// Writes the transpose of `LANES` rows of `LANES` values; rows start a stride apart.
    ///
    /// # Safety
    /// `from` must be valid for reading and `to` for writing those rows.
    unsafe fn transpose(self, from: (*const f32, usize), to: (*mut f32, usize));

    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a·b + c`, rounded once if [`FUSED`](Self::FUSED).
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The smaller; `b` where either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// The larger; `b` where either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `then` where `a < b`, else `otherwise`.
    fn select_lt(self, a: Self::V, b: Self::V, then: Self::V, otherwise: Self::V) -> Self::V;
    /// The nearest integers, ties to even.
    fn round(self, a: Self::V) -> Self::V;
    /// `a·2ⁿ` for integral `n` in `-126..=128`.
    fn scale_by_power(self, a: Self::V, n: Self::V) -> Self::V;
    /// The values of `a` and `b` by turns, `a` first.
    fn interleave(self, a: Self::V, b: Self::V) -> [Self::V; 2];
    /// The nearest bf16, ties to even; NaN stays NaN.
    fn round_bf16(self, a: Self::V) -> Self::V;
    /// The sum of all lanes, in a fixed order.
    fn sum(self, a: Self::V) -> f32;
    /// The largest lane.
    fn largest(self, a: Self::V) -> f32;
}

/// A computation that can be compiled for any instruction set.
pub(crate) trait Kernel {
    type Output;
    /// Must be `#[inline(always)]`.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Runs a kernel on the best instruction set of this processor.
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(simd) = avx512::Avx512::detect().filter(|_| permitted(2)) {
            return avx512::run(simd, kernel);
        }
        if let Some(simd) = avx2::Avx2::detect().filter(|_| permitted(1)) {
            return avx2::run(simd, kernel);
        }
    }
    kernel.run(Portable)
}

/// Whether [`dispatch`] may use the instruction set of this rank; tests lower the bar.
#[inline(always)]
#[cfg(target_arch = "x86_64")]
fn permitted(rank: u8) -> bool {
    #[cfg(test)]
    return rank <= tests::highest();
    #[cfg(not(test))]
    return rank <= 3;
}

/// The name of the instruction set that the native forms use on this processor: `avx512`, `avx2`
/// or `portable`.
pub fn instruction_set() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if avx512::Avx512::detect().is_some() {
            return "avx512";
        }
        if avx2::Avx2::detect().is_some() {
            return "avx2";
        }
    }
    "portable"
}

/// Detection results, asked of the processor once.
#[cfg(target_arch = "x86_64")]
fn detected(cell: &OnceLock<bool>, detect: fn() -> bool) -> bool {
    *cell.get_or_init(detect)
}
