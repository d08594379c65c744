//! The innermost loop: a tile of sums held in registers over a block of depths.
#![allow(
    clippy::needless_range_loop,
    reason = "an index addresses registers and memory alike"
)]

use std::arch::x86_64::*;

use half::bf16;

/// The most rows of a tile: with two registers a row, 28 of the 32 registers hold sums.
pub(super) const HEIGHT: usize = 14;

/// The columns of a panel of the right operand.
pub(super) const WIDTH: usize = 32;

/// How a tile multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Pairs of bf16 numbers, two depths in a word.
    Bf16,
    /// f32 numbers, a depth in a word.
    F32,
}

impl Kind {
    /// Depths in a word.
    pub(super) const fn per_word(self) -> usize {
        match self {
            Self::Bf16 => 2,
            Self::F32 => 1,
        }
    }

    /// Words that hold so many depths.
    pub(super) const fn words(self, depths: usize) -> usize {
        depths.div_ceil(self.per_word())
    }
}

/// Sixteen words: one cache line, one register.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [u32; 16]);

/// Operands that a tile is the product of: `words` words of each row and column.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) words: usize,
    pub(super) left: *const u32,
    pub(super) right: *const Line,
}

impl Span {
    /// Nothing.
    pub(super) const EMPTY: Self = Self {
        words: 0,
        left: std::ptr::null(),
        right: std::ptr::null(),
    };
}

/// Where the sums of a tile go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    /// f32 sums, read first if `accumulate`, and written unless `rounded` is given.
    pub(super) sums: *mut f32,
    /// The finished sums as bf16.
    pub(super) rounded: Option<*mut bf16>,
    /// The distance between neighbouring rows of either.
    pub(super) stride: usize,
    /// What the finished sums are added to.
    pub(super) bias: Option<*const f32>,
    /// At most [`WIDTH`].
    pub(super) cols: usize,
    pub(super) accumulate: bool,
    /// What is read next: [`AHEAD`] bytes per word from here are asked for meanwhile. Any address.
    pub(super) ahead: *const u32,
}

/// Bytes asked for per word of depths.
pub(super) const AHEAD: usize = 16;

/// Multiplies panels of `rows` rows with panels of [`WIDTH`] columns, and adds the products.
///
/// # Safety
/// The processor must have AVX512-BF16. For each span, `left` must be valid for reading
/// `words·rows` words, `right` for `words` times two lines, and every pointer of `to` for `rows`
/// rows of `to.cols`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn multiply(kind: Kind, rows: usize, spans: [Span; 2], to: Target) {
    // SAFETY: passed on unchanged.
    unsafe {
        match (kind, to.cols > WIDTH / 2) {
            (Kind::Bf16, true) => of_height::<Pairs, 2>(rows, spans, to),
            (Kind::Bf16, false) => of_height::<Pairs, 1>(rows, spans, to),
            (Kind::F32, true) => of_height::<Singles, 2>(rows, spans, to),
            (Kind::F32, false) => of_height::<Singles, 1>(rows, spans, to),
        }
    }
}

/// The instruction behind a [`Kind`].
trait Multiply {
    /// `sum + left·right` in each lane.
    ///
    /// # Safety
    /// The processor must have AVX512-BF16.
    unsafe fn add(sum: __m512, left: __m512i, right: __m512i) -> __m512;
}

struct Pairs;

impl Multiply for Pairs {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    #[inline]
    unsafe fn add(sum: __m512, left: __m512i, right: __m512i) -> __m512 {
        _mm512_dpbf16_ps(sum, bits(left), bits(right))
    }
}

struct Singles;

impl Multiply for Singles {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    #[inline]
    unsafe fn add(sum: __m512, left: __m512i, right: __m512i) -> __m512 {
        _mm512_fmadd_ps(_mm512_castsi512_ps(left), _mm512_castsi512_ps(right), sum)
    }
}

/// # Safety
/// As [`multiply`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
#[inline]
unsafe fn of_height<M: Multiply, const V: usize>(rows: usize, spans: [Span; 2], to: Target) {
    // SAFETY: passed on unchanged.
    unsafe {
        match rows {
            0 => {}
            1 => tile::<M, 1, V>(spans, to),
            2 => tile::<M, 2, V>(spans, to),
            3 => tile::<M, 3, V>(spans, to),
            4 => tile::<M, 4, V>(spans, to),
            5 => tile::<M, 5, V>(spans, to),
            6 => tile::<M, 6, V>(spans, to),
            7 => tile::<M, 7, V>(spans, to),
            8 => tile::<M, 8, V>(spans, to),
            9 => tile::<M, 9, V>(spans, to),
            10 => tile::<M, 10, V>(spans, to),
            11 => tile::<M, 11, V>(spans, to),
            12 => tile::<M, 12, V>(spans, to),
            13 => tile::<M, 13, V>(spans, to),
            _ => tile::<M, HEIGHT, V>(spans, to),
        }
    }
}

/// # Safety
/// As [`multiply`], for `H` rows and columns of `V` registers.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
#[inline(never)]
unsafe fn tile<M: Multiply, const H: usize, const V: usize>(spans: [Span; 2], to: Target) {
    let mut sums = [[_mm512_setzero_ps(); V]; H];
    if to.accumulate || to.rounded.is_none() {
        for i in 0..H {
            for j in 0..V {
                let sums = to.sums.wrapping_add(i * to.stride + 16 * j);
                _mm_prefetch::<_MM_HINT_T0>(sums.cast());
            }
        }
    }
    // SAFETY: `word < words`, `i < H` and `j < V` stay inside what the caller vouches for.
    unsafe {
        for Span { words, left, right } in spans {
            for word in 0..words {
                let ahead = to.ahead.cast::<i8>().wrapping_add(AHEAD * word);
                _mm_prefetch::<_MM_HINT_T1>(ahead);
                let from = right.add(2 * word);
                let mut columns = [_mm512_setzero_si512(); V];
                for j in 0..V {
                    columns[j] = _mm512_load_si512(from.add(j).cast());
                }
                let from = left.add(H * word);
                for i in 0..H {
                    let row = _mm512_set1_epi32(from.add(i).read().cast_signed());
                    for j in 0..V {
                        sums[i][j] = M::add(sums[i][j], row, columns[j]);
                    }
                }
            }
        }
        for j in 0..V {
            let mask = first(to.cols - (16 * j).min(to.cols));
            let bias = to.bias.map_or(_mm512_setzero_ps(), |bias| {
                _mm512_maskz_loadu_ps(mask, bias.wrapping_add(16 * j))
            });
            for i in 0..H {
                let at = i * to.stride + 16 * j;
                let mut sum = sums[i][j];
                if to.accumulate {
                    sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to.sums.wrapping_add(at)), sum);
                }
                sum = _mm512_add_ps(sum, bias);
                match to.rounded {
                    None => _mm512_mask_storeu_ps(to.sums.wrapping_add(at), mask, sum),
                    Some(rounded) => {
                        let value =
                            std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(sum));
                        _mm256_mask_storeu_epi16(rounded.wrapping_add(at).cast(), mask, value);
                    }
                }
            }
        }
    }
}

/// A mask of the first `n` of 16 lanes.
pub(super) fn first(n: usize) -> __mmask16 {
    u16::MAX
        .checked_shr(16 - u32::try_from(n.min(16)).unwrap_or(16))
        .unwrap_or(0)
}

/// A mask of the first `n` of 32 lanes.
pub(super) fn first32(n: usize) -> __mmask32 {
    u32::MAX
        .checked_shr(32 - u32::try_from(n.min(32)).unwrap_or(32))
        .unwrap_or(0)
}

/// Sixteen words as pairs of bf16 numbers.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn bits(words: __m512i) -> __m512bh {
    // SAFETY: both types are 512 bits of which any pattern is valid.
    unsafe { std::mem::transmute(words) }
}

/// Pairs of bf16 numbers as sixteen words.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn words(bits: __m512bh) -> __m512i {
    // SAFETY: both types are 512 bits of which any pattern is valid.
    unsafe { std::mem::transmute(bits) }
}

/// The transpose of 16 × 16 words.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn transpose(rows: [__m512i; 16]) -> [__m512i; 16] {
    let mut two = rows;
    for i in 0..8 {
        two[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        two[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    let mut four = two;
    for i in (0..16).step_by(4) {
        four[i] = _mm512_unpacklo_epi64(two[i], two[i + 2]);
        four[i + 1] = _mm512_unpackhi_epi64(two[i], two[i + 2]);
        four[i + 2] = _mm512_unpacklo_epi64(two[i + 1], two[i + 3]);
        four[i + 3] = _mm512_unpackhi_epi64(two[i + 1], two[i + 3]);
    }
    // Quarter `l` of `four[4·i + c]` holds rows `4·i..4·i + 4` of column `4·l + c`.
    let mut columns = four;
    for c in 0..4 {
        let upper = [four[c], four[4 + c]];
        let lower = [four[8 + c], four[12 + c]];
        let even = [upper, lower].map(|[a, b]| _mm512_shuffle_i32x4::<0x88>(a, b));
        let odd = [upper, lower].map(|[a, b]| _mm512_shuffle_i32x4::<0xdd>(a, b));
        columns[c] = _mm512_shuffle_i32x4::<0x88>(even[0], even[1]);
        columns[4 + c] = _mm512_shuffle_i32x4::<0x88>(odd[0], odd[1]);
        columns[8 + c] = _mm512_shuffle_i32x4::<0xdd>(even[0], even[1]);
        columns[12 + c] = _mm512_shuffle_i32x4::<0xdd>(odd[0], odd[1]);
    }
    columns
}
