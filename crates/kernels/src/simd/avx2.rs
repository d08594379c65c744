//! AVX2 with FMA and F16C: eight lanes.
#![allow(
    unsafe_code,
    reason = "vector instructions; the token proves that the processor has them"
)]

use std::arch::x86_64::*;
use std::sync::OnceLock;

use super::{Kernel, Simd, detected};

/// Proof that the processor has AVX2, FMA and F16C.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    pub(crate) fn detect() -> Option<Self> {
        static FOUND: OnceLock<bool> = OnceLock::new();
        detected(&FOUND, || {
            is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
        })
        .then_some(Self(()))
    }
}

/// Runs `kernel` in a function compiled for AVX2.
pub(crate) fn run<K: Kernel>(simd: Avx2, kernel: K) -> K::Output {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn compiled<K: Kernel>(simd: Avx2, kernel: K) -> K::Output {
        kernel.run(simd)
    }
    // SAFETY: an `Avx2` value exists only where detection found these features.
    unsafe { compiled(simd, kernel) }
}

// Each method's instructions are available by the token (see `Avx2`), and pointers are as the
// trait's contract demands.
impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = 8;
    const FUSED: bool = true;
    const TILE_ROWS: usize = 6;
    const TILE_VECS: usize = 2;

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        run(self, kernel)
    }
    #[inline(always)]
    fn prefetch<T>(self, address: *const T) {
        // SAFETY: a prefetch reads nothing as far as the program can tell.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        // SAFETY: the token proves AVX2.
        unsafe { _mm256_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m256 {
        // SAFETY: the token proves AVX2; the caller vouches for 8 values.
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn load_head(self, from: *const f32, n: usize) -> __m256 {
        debug_assert!(n < 8);
        let mut lanes = [0f32; 8];
        // SAFETY: the caller vouches for `n < 8` values; the token proves AVX2.
        unsafe {
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), n);
            _mm256_loadu_ps(lanes.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> __m256 {
        // SAFETY: the token proves AVX2; the caller vouches for 8 values of 2 bytes.
        unsafe {
            let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
        }
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> __m256 {
        // SAFETY: the token proves F16C; the caller vouches for 8 values of 2 bytes.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }
    #[inline(always)]
    unsafe fn store(self, value: __m256, to: *mut f32) {
        // SAFETY: the token proves AVX2; the caller vouches for 8 values.
        unsafe { _mm256_storeu_ps(to, value) }
    }
    #[inline(always)]
    unsafe fn store_head(self, value: __m256, to: *mut f32, n: usize) {
        debug_assert!(n < 8);
        let mut lanes = [0f32; 8];
        // SAFETY: the token proves AVX2; the caller vouches for `n < 8` values.
        unsafe {
            _mm256_storeu_ps(lanes.as_mut_ptr(), value);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, n);
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, value: __m256, to: *mut u16) {
        // SAFETY: passed on unchanged.
        unsafe { self.store_upper(self.round_bf16(value), to) }
    }
    #[inline(always)]
    unsafe fn store_upper(self, value: __m256, to: *mut u16) {
        // SAFETY: the token proves AVX2; the caller vouches for 8 values of 2 bytes.
        unsafe {
            let upper = _mm256_srli_epi32::<16>(_mm256_castps_si256(value));
            let low = _mm256_castsi256_si128(upper);
            let packed = _mm_packus_epi32(low, _mm256_extracti128_si256::<1>(upper));
            _mm_storeu_si128(to.cast(), packed);
        }
    }
    #[inline(always)]
    unsafe fn load_i8(self, from: *const u8) -> __m256 {
        // SAFETY: the token proves AVX2; the caller vouches for 8 bytes.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn look_up(self, [low, high]: [__m256; 2], codes: *const u8) -> [__m256; 2] {
        #[inline(always)]
        unsafe fn entries(low: __m256, high: __m256, codes: __m256i) -> __m256 {
            // SAFETY: the caller has AVX2.
            unsafe {
                let from_low = _mm256_permutevar8x32_ps(low, codes);
                let from_high = _mm256_permutevar8x32_ps(high, codes);
                // Bit 3 of the code, as the sign that the blend looks at.
                let which = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(codes));
                _mm256_blendv_ps(from_low, from_high, which)
            }
        }
        // SAFETY: the token proves AVX2; the caller vouches for 8 bytes.
        unsafe {
            let codes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(codes.cast()));
            let upper = entries(low, high, _mm256_srli_epi32::<4>(codes));
            [upper, entries(low, high, codes)]
        }
    }
    #[inline(always)]
    unsafe fn transpose(
        self,
        (from, from_stride): (*const f32, usize),
        (to, to_stride): (*mut f32, usize),
    ) {
        // SAFETY: the token proves AVX2; the caller vouches for 8 rows of 8 values.
        unsafe {
            // Pairs of rows, then fours of them, within each half; then the halves.
            let mut fours = [_mm256_setzero_ps(); 8];
            for i in 0..2 {
                let from = from.add(4 * i * from_stride);
                let a = _mm256_loadu_ps(from);
                let b = _mm256_loadu_ps(from.add(from_stride));
                let c = _mm256_loadu_ps(from.add(2 * from_stride));
                let d = _mm256_loadu_ps(from.add(3 * from_stride));
                let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
                fours[4 * i] = _mm256_shuffle_ps::<0x44>(ab, cd);
                fours[4 * i + 1] = _mm256_shuffle_ps::<0xee>(ab, cd);
                let (ab, cd) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
                fours[4 * i + 2] = _mm256_shuffle_ps::<0x44>(ab, cd);
                fours[4 * i + 3] = _mm256_shuffle_ps::<0xee>(ab, cd);
            }
            for j in 0..4 {
                let (a, b) = (fours[j], fours[4 + j]);
                _mm256_storeu_ps(to.add(j * to_stride), _mm256_permute2f128_ps::<0x20>(a, b));
                let high = _mm256_permute2f128_ps::<0x31>(a, b);
                _mm256_storeu_ps(to.add((4 + j) * to_stride), high);
            }
        }
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token proves AVX2.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token proves AVX2.
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token proves AVX2.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token proves AVX2.
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: the token proves FMA.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token proves AVX2.
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token proves AVX2.
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    fn select_lt(self, a: __m256, b: __m256, then: __m256, otherwise: __m256) -> __m256 {
        // SAFETY: the token proves AVX2.
        unsafe { _mm256_blendv_ps(otherwise, then, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)) }
    }
    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        // SAFETY: the token proves AVX2.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn scale_by_power(self, a: __m256, n: __m256) -> __m256 {
        // Two factors, because 2¹²⁸ is no f32.
        // SAFETY: the token proves AVX2.
        unsafe {
            let n = _mm256_cvtps_epi32(n);
            let half = _mm256_srai_epi32::<1>(n);
            let bias = _mm256_set1_epi32(127);
            let first = _mm256_slli_epi32::<23>(_mm256_add_epi32(half, bias));
            let rest = _mm256_add_epi32(_mm256_sub_epi32(n, half), bias);
            let second = _mm256_slli_epi32::<23>(rest);
            let a = _mm256_mul_ps(a, _mm256_castsi256_ps(first));
            _mm256_mul_ps(a, _mm256_castsi256_ps(second))
        }
    }
    #[inline(always)]
    fn interleave(self, a: __m256, b: __m256) -> [__m256; 2] {
        // SAFETY: the token proves AVX2.
        unsafe {
            let (low, high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            [
                _mm256_permute2f128_ps::<0x20>(low, high),
                _mm256_permute2f128_ps::<0x31>(low, high),
            ]
        }
    }
    #[inline(always)]
    fn round_bf16(self, a: __m256) -> __m256 {
        // SAFETY: the token proves AVX2.
        unsafe {
            let bits = _mm256_castps_si256(a);
            // Half a unit in the last place, less one bit where the result is even already.
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
            let rounded = _mm256_add_epi32(bits, half);
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(a, a));
            let chosen = _mm256_blendv_epi8(rounded, quiet, nan);
            _mm256_castsi256_ps(_mm256_and_si256(chosen, _mm256_set1_epi32(!0xffff)))
        }
    }
    #[inline(always)]
    fn sum(self, a: __m256) -> f32 {
        // SAFETY: the token proves AVX2.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
    #[inline(always)]
    fn largest(self, a: __m256) -> f32 {
        // SAFETY: the token proves AVX2.
        unsafe {
            let four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
}
