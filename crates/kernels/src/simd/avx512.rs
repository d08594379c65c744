//! AVX-512: sixteen lanes.
#![allow(
    unsafe_code,
    reason = "vector instructions; the token proves that the processor has them"
)]

use std::arch::x86_64::*;
use std::sync::OnceLock;

use super::{Kernel, Simd, detected};

/// Proof that the processor has AVX-512 F, BW, DQ and VL.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    pub(crate) fn detect() -> Option<Self> {
        static FOUND: OnceLock<bool> = OnceLock::new();
        detected(&FOUND, || {
            is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("fma")
        })
        .then_some(Self(()))
    }
}

/// Runs `kernel` in a function compiled for AVX-512.
pub(crate) fn run<K: Kernel>(simd: Avx512, kernel: K) -> K::Output {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    fn compiled<K: Kernel>(simd: Avx512, kernel: K) -> K::Output {
        kernel.run(simd)
    }
    // SAFETY: an `Avx512` value exists only where detection found these features.
    unsafe { compiled(simd, kernel) }
}

/// A mask of the first `n < 16` lanes.
#[inline(always)]
fn head(n: usize) -> __mmask16 {
    debug_assert!(n < 16);
    (1u16 << n).wrapping_sub(1)
}

// Each method's instructions are available by the token (see `Avx512`), and pointers are as the
// trait's contract demands.
impl Simd for Avx512 {
    type V = __m512;
    const LANES: usize = 16;
    const FUSED: bool = true;
    const TILE_ROWS: usize = 6;
    const TILE_VECS: usize = 4;

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
    fn splat(self, value: f32) -> __m512 {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m512 {
        // SAFETY: the token proves AVX-512; the caller vouches for 16 values.
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn load_head(self, from: *const f32, n: usize) -> __m512 {
        // SAFETY: the token proves AVX-512; masked-off lanes are not accessed.
        unsafe { _mm512_maskz_loadu_ps(head(n), from) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> __m512 {
        // SAFETY: the token proves AVX-512; the caller vouches for 16 values of 2 bytes.
        unsafe {
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        }
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> __m512 {
        // SAFETY: the token proves AVX-512; the caller vouches for 16 values of 2 bytes.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }
    #[inline(always)]
    unsafe fn store(self, value: __m512, to: *mut f32) {
        // SAFETY: the token proves AVX-512; the caller vouches for 16 values.
        unsafe { _mm512_storeu_ps(to, value) }
    }
    #[inline(always)]
    unsafe fn store_head(self, value: __m512, to: *mut f32, n: usize) {
        // SAFETY: the token proves AVX-512; masked-off lanes are not accessed.
        unsafe { _mm512_mask_storeu_ps(to, head(n), value) }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, value: __m512, to: *mut u16) {
        // SAFETY: passed on unchanged.
        unsafe { self.store_upper(self.round_bf16(value), to) }
    }
    #[inline(always)]
    unsafe fn store_upper(self, value: __m512, to: *mut u16) {
        // SAFETY: the token proves AVX-512; the caller vouches for 16 values of 2 bytes.
        unsafe {
            let upper = _mm512_srli_epi32::<16>(_mm512_castps_si512(value));
            _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(upper));
        }
    }
    #[inline(always)]
    unsafe fn load_i8(self, from: *const u8) -> __m512 {
        // SAFETY: the token proves AVX-512; the caller vouches for 16 bytes.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn look_up(self, [table, _]: [__m512; 2], codes: *const u8) -> [__m512; 2] {
        // SAFETY: the token proves AVX-512; the caller vouches for 16 bytes. Of an index, the
        // permutation sees the lower four bits alone.
        unsafe {
            let codes = _mm512_cvtepu8_epi32(_mm_loadu_si128(codes.cast()));
            let upper = _mm512_srli_epi32::<4>(codes);
            [
                _mm512_permutexvar_ps(upper, table),
                _mm512_permutexvar_ps(codes, table),
            ]
        }
    }
    #[inline(always)]
    unsafe fn transpose(
        self,
        (from, from_stride): (*const f32, usize),
        (to, to_stride): (*mut f32, usize),
    ) {
        // SAFETY: the token proves AVX-512; the caller vouches for 16 rows of 16 values.
        unsafe {
            // Pairs of rows, then fours of them, within each quarter; then the quarters.
            let mut fours = [_mm512_setzero_ps(); 16];
            for i in 0..4 {
                let from = from.add(4 * i * from_stride);
                let a = _mm512_loadu_ps(from);
                let b = _mm512_loadu_ps(from.add(from_stride));
                let c = _mm512_loadu_ps(from.add(2 * from_stride));
                let d = _mm512_loadu_ps(from.add(3 * from_stride));
                let (ab, cd) = (_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d));
                fours[4 * i] = _mm512_shuffle_ps::<0x44>(ab, cd);
                fours[4 * i + 1] = _mm512_shuffle_ps::<0xee>(ab, cd);
                let (ab, cd) = (_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d));
                fours[4 * i + 2] = _mm512_shuffle_ps::<0x44>(ab, cd);
                fours[4 * i + 3] = _mm512_shuffle_ps::<0xee>(ab, cd);
            }
            for j in 0..4 {
                let (a, b, c, d) = (fours[j], fours[4 + j], fours[8 + j], fours[12 + j]);
                let even_ab = _mm512_shuffle_f32x4::<0x88>(a, b);
                let even_cd = _mm512_shuffle_f32x4::<0x88>(c, d);
                let odd_ab = _mm512_shuffle_f32x4::<0xdd>(a, b);
                let odd_cd = _mm512_shuffle_f32x4::<0xdd>(c, d);
                let columns = [
                    _mm512_shuffle_f32x4::<0x88>(even_ab, even_cd),
                    _mm512_shuffle_f32x4::<0x88>(odd_ab, odd_cd),
                    _mm512_shuffle_f32x4::<0xdd>(even_ab, even_cd),
                    _mm512_shuffle_f32x4::<0xdd>(odd_ab, odd_cd),
                ];
                for (quarter, column) in columns.into_iter().enumerate() {
                    _mm512_storeu_ps(to.add((4 * quarter + j) * to_stride), column);
                }
            }
        }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn select_lt(self, a: __m512, b: __m512, then: __m512, otherwise: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512.
        unsafe {
            let mask = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b);
            _mm512_mask_blend_ps(mask, otherwise, then)
        }
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn scale_by_power(self, a: __m512, n: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_scalef_ps(a, n) }
    }
    #[inline(always)]
    fn interleave(self, a: __m512, b: __m512) -> [__m512; 2] {
        // SAFETY: the token proves AVX-512.
        unsafe {
            let first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            let second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
            [
                _mm512_permutex2var_ps(a, first, b),
                _mm512_permutex2var_ps(a, second, b),
            ]
        }
    }
    #[inline(always)]
    fn round_bf16(self, a: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512.
        unsafe {
            let bits = _mm512_castps_si512(a);
            // Half a unit in the last place, less one bit where the result is even already.
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
            let rounded = _mm512_add_epi32(bits, half);
            let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x40_0000));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a);
            let chosen = _mm512_mask_blend_epi32(nan, rounded, quiet);
            _mm512_castsi512_ps(_mm512_and_si512(chosen, _mm512_set1_epi32(!0xffff)))
        }
    }
    #[inline(always)]
    fn sum(self, a: __m512) -> f32 {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_reduce_add_ps(a) }
    }
    #[inline(always)]
    fn largest(self, a: __m512) -> f32 {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_reduce_max_ps(a) }
    }
}
