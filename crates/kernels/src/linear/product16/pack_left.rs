//! The left operand as panels of up to [`HEIGHT`] rows, rounded to bf16.

use std::arch::x86_64::*;
use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use super::left::{Left, Values};
use super::tile::{HEIGHT, first, first32, transpose, words};
use crate::cpu::Shared;
use crate::simd::Avx512Bf16;

/// Numbers that one task packs at least.
const TASK: usize = 64 * 1024;

/// Some rows and depths of a left operand, packed.
///
/// Pair `p` of row `i` of the panel that starts at row `r` and has `h` rows is word
/// `r·pairs + p·h + i`.
#[derive(Debug)]
pub(super) struct PackedLeft {
    words: Vec<u32>,
    rows: usize,
    pairs: usize,
}

impl PackedLeft {
    /// Packs `rows` × `depths` of `left`, on all threads; `depths` must start at an even one.
    pub(super) fn new(
        _simd: Avx512Bf16,
        left: &Left<'_>,
        rows: Range<usize>,
        depths: Range<usize>,
    ) -> Self {
        assert!(rows.end <= left.rows && depths.end <= left.depth);
        let pairs = depths.len().div_ceil(2);
        let mut packed = Self {
            words: Vec::with_capacity(rows.len() * pairs),
            rows: rows.len(),
            pairs,
        };
        let out = Shared(packed.words.as_mut_ptr());
        let panel = |index| {
            let panel = packed.panel(index);
            let (first, height) = (rows.start + panel.start, panel.len());
            // SAFETY: the token proves the instructions; the panel lies inside the operand and
            // inside the buffer, whose parts for different panels are disjoint.
            unsafe {
                let to = out.at(panel.start * pairs);
                match (left.values, left.transposed) {
                    (Values::F32(from), false) => {
                        pack_rows(from, left.stride, first, height, &depths, to);
                    }
                    (Values::Bf16(from), false) => {
                        pack_rows(from, left.stride, first, height, &depths, to);
                    }
                    (Values::F32(from), true) => {
                        pack_columns(from, left.stride, first, height, &depths, to);
                    }
                    (Values::Bf16(from), true) => {
                        pack_columns(from, left.stride, first, height, &depths, to);
                    }
                }
            }
        };
        let least = TASK.div_ceil(HEIGHT * 2 * pairs.max(1));
        (0..packed.panels())
            .into_par_iter()
            .with_min_len(least)
            .for_each(panel);
        // SAFETY: the capacity is `rows·pairs`, and the panels cover all of it.
        unsafe { packed.words.set_len(packed.rows * pairs) };
        packed
    }

    pub(super) fn panels(&self) -> usize {
        self.rows.div_ceil(HEIGHT)
    }

    /// The rows of a panel, counted from the first packed row: all panels are about as high.
    pub(super) fn panel(&self, index: usize) -> Range<usize> {
        let panels = self.panels();
        index * self.rows / panels..(index + 1) * self.rows / panels
    }

    /// The pairs of a panel from pair `pair` on.
    pub(super) fn words(&self, panel: &Range<usize>, pair: usize) -> *const u32 {
        self.words[panel.start * self.pairs + pair * panel.len()..].as_ptr()
    }
}

/// A float type read sixteen or thirty-two at a time.
trait Read: Copy {
    /// The first `n` of 32 numbers as bf16, the others zero.
    ///
    /// # Safety
    /// The processor must have AVX512-BF16, and `from` be valid for reading `n` numbers.
    unsafe fn thirty_two(from: *const Self, n: usize) -> __m512i;
    /// The first `n` of 16 numbers as bf16 in the lower halves of words, the others zero.
    ///
    /// # Safety
    /// As [`thirty_two`](Self::thirty_two).
    unsafe fn sixteen(from: *const Self, n: usize) -> __m512i;
}

impl Read for f32 {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    #[inline]
    unsafe fn thirty_two(from: *const Self, n: usize) -> __m512i {
        // SAFETY: lanes past `n` are not accessed.
        unsafe {
            let low = _mm512_maskz_loadu_ps(first(n), from);
            let high = _mm512_maskz_loadu_ps(first(n - n.min(16)), from.wrapping_add(16));
            words(_mm512_cvtne2ps_pbh(high, low))
        }
    }
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    #[inline]
    unsafe fn sixteen(from: *const Self, n: usize) -> __m512i {
        // SAFETY: lanes past `n` are not accessed; 256 bits are 256 bits.
        unsafe {
            let rounded = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(first(n), from));
            _mm512_cvtepu16_epi32(std::mem::transmute::<__m256bh, __m256i>(rounded))
        }
    }
}

impl Read for bf16 {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    #[inline]
    unsafe fn thirty_two(from: *const Self, n: usize) -> __m512i {
        // SAFETY: lanes past `n` are not accessed.
        unsafe { _mm512_maskz_loadu_epi16(first32(n), from.cast()) }
    }
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    #[inline]
    unsafe fn sixteen(from: *const Self, n: usize) -> __m512i {
        // SAFETY: lanes past `n` are not accessed.
        unsafe { _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first(n), from.cast())) }
    }
}

/// Packs rows `row..row + height` whose depths lie side by side.
///
/// # Safety
/// The processor must have AVX512-BF16, `from` hold rows `stride` apart as far as they are asked
/// for, `height` be at most [`HEIGHT`], and `to` valid for `height` words per pair.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn pack_rows<T: Read>(
    from: &[T],
    stride: usize,
    row: usize,
    height: usize,
    depths: &Range<usize>,
    to: *mut u32,
) {
    let mask = first(height);
    let mut depth = depths.start;
    let mut pair = 0;
    while depth < depths.end {
        let n = (depths.end - depth).min(32);
        let mut rows = [_mm512_setzero_si512(); 16];
        // SAFETY: `n` numbers of each row are inside the slice, and pairs inside `to`.
        unsafe {
            for (i, words) in rows.iter_mut().enumerate().take(height) {
                *words = T::thirty_two(from.as_ptr().add((row + i) * stride + depth), n);
            }
            for words in transpose(rows).into_iter().take(n.div_ceil(2)) {
                _mm512_mask_storeu_epi32(to.add(pair * height).cast(), mask, words);
                pair += 1;
            }
        }
        depth += n;
    }
}

/// Packs rows `row..row + height` that lie side by side, their depths `stride` apart.
///
/// # Safety
/// As [`pack_rows`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn pack_columns<T: Read>(
    from: &[T],
    stride: usize,
    row: usize,
    height: usize,
    depths: &Range<usize>,
    to: *mut u32,
) {
    let mask = first(height);
    for (pair, depth) in depths.clone().step_by(2).enumerate() {
        // SAFETY: `height` numbers at each depth are inside the slice, and pairs inside `to`.
        unsafe {
            let from = from.as_ptr().add(depth * stride + row);
            let mut words = T::sixteen(from, height);
            if depth + 1 < depths.end {
                let odd = T::sixteen(from.add(stride), height);
                words = _mm512_or_si512(words, _mm512_slli_epi32::<16>(odd));
            }
            _mm512_mask_storeu_epi32(to.add(pair * height).cast(), mask, words);
        }
    }
}
