//! The left operand as panels of up to [`HEIGHT`] rows, rounded to bf16 where that is asked for.

use std::arch::x86_64::*;
use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use super::left::{Left, Values};
use super::tile::{HEIGHT, Kind, first, first32, transpose, words};
use crate::cpu::Shared;
use crate::simd::Avx512Bf16;

/// Numbers that one task packs at least.
const TASK: usize = 64 * 1024;

/// Some rows and depths of a left operand, packed.
///
/// Word `w` of row `i` of the panel that starts at row `r` and has `h` rows is
/// `r·words + w·h + i`.
#[derive(Debug)]
pub(super) struct PackedLeft {
    numbers: Vec<u32>,
    kind: Kind,
    rows: usize,
    /// Words of a row.
    words: usize,
}

impl PackedLeft {
    /// Packs `rows` × `depths` of `left`, on all threads; `depths` must start at an even one.
    pub(super) fn new(
        _simd: Avx512Bf16,
        kind: Kind,
        left: &Left<'_>,
        rows: Range<usize>,
        depths: Range<usize>,
    ) -> Self {
        assert!(rows.end <= left.rows && depths.end <= left.depth);
        let words = kind.words(depths.len());
        let mut packed = Self {
            numbers: Vec::with_capacity(rows.len() * words),
            kind,
            rows: rows.len(),
            words,
        };
        let out = Shared(packed.numbers.as_mut_ptr());
        let panel = |index| {
            let panel = packed.panel(index);
            let (first, height) = (rows.start + panel.start, panel.len());
            let part = Part {
                stride: left.stride,
                row: first,
                height,
                depths: &depths,
            };
            // SAFETY: the token proves the instructions; the panel lies inside the operand and
            // inside the buffer, whose parts for different panels are disjoint.
            unsafe {
                let to = out.at(panel.start * words);
                match (kind, left.values, left.transposed) {
                    (Kind::Bf16, Values::F32(from), false) => {
                        pack_rows::<f32, Rounded>(from, part, to);
                    }
                    (Kind::Bf16, Values::F32(from), true) => {
                        pack_columns::<f32, Rounded>(from, part, to);
                    }
                    (_, Values::Bf16(from), false) => pack_rows::<bf16, Rounded>(from, part, to),
                    (_, Values::Bf16(from), true) => pack_columns::<bf16, Rounded>(from, part, to),
                    (Kind::F32, Values::F32(from), false) => {
                        pack_rows::<f32, Exact>(from, part, to);
                    }
                    (Kind::F32, Values::F32(from), true) => {
                        pack_columns::<f32, Exact>(from, part, to);
                    }
                }
            }
        };
        let least = TASK.div_ceil(HEIGHT * kind.per_word() * words.max(1));
        (0..packed.panels())
            .into_par_iter()
            .with_min_len(least)
            .for_each(panel);
        // SAFETY: the capacity is `rows·words`, and the panels cover all of it.
        unsafe { packed.numbers.set_len(packed.rows * words) };
        packed
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn panels(&self) -> usize {
        self.rows.div_ceil(HEIGHT)
    }

    /// The rows of a panel, counted from the first packed row: all panels are about as high.
    pub(super) fn panel(&self, index: usize) -> Range<usize> {
        let panels = self.panels();
        index * self.rows / panels..(index + 1) * self.rows / panels
    }

    /// The words of a panel from word `word` of each row on.
    pub(super) fn words(&self, panel: &Range<usize>, word: usize) -> *const u32 {
        self.numbers[panel.start * self.words + word * panel.len()..].as_ptr()
    }

    /// The memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.numbers[..])
    }
}

/// A panel of the operand.
#[derive(Clone, Copy)]
struct Part<'a> {
    stride: usize,
    row: usize,
    height: usize,
    depths: &'a Range<usize>,
}

/// Numbers read as words of a [`Kind`].
trait Read<T> {
    const KIND: Kind;
    /// Sixteen words of neighbouring depths, of which there are `n`; the others are zero.
    ///
    /// # Safety
    /// The processor must have AVX512-BF16, and `from` be valid for reading `n` numbers.
    unsafe fn line(from: *const T, n: usize) -> __m512i;
    /// The first `n` of 16 numbers in words of their own, in the lower halves if they are halves;
    /// the others are zero.
    ///
    /// # Safety
    /// As [`line`](Self::line).
    unsafe fn sixteen(from: *const T, n: usize) -> __m512i;
}

/// Numbers rounded to bf16.
struct Rounded;

/// Numbers as they are.
struct Exact;

impl Read<f32> for Rounded {
    const KIND: Kind = Kind::Bf16;
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    #[inline]
    unsafe fn line(from: *const f32, n: usize) -> __m512i {
        // SAFETY: lanes past `n` are not accessed.
        unsafe {
            let low = _mm512_maskz_loadu_ps(first(n), from);
            let high = _mm512_maskz_loadu_ps(first(n - n.min(16)), from.wrapping_add(16));
            words(_mm512_cvtne2ps_pbh(high, low))
        }
    }
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    #[inline]
    unsafe fn sixteen(from: *const f32, n: usize) -> __m512i {
        // SAFETY: lanes past `n` are not accessed; 256 bits are 256 bits.
        unsafe {
            let rounded = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(first(n), from));
            _mm512_cvtepu16_epi32(std::mem::transmute::<__m256bh, __m256i>(rounded))
        }
    }
}

impl Read<bf16> for Rounded {
    const KIND: Kind = Kind::Bf16;
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    #[inline]
    unsafe fn line(from: *const bf16, n: usize) -> __m512i {
        // SAFETY: lanes past `n` are not accessed.
        unsafe { _mm512_maskz_loadu_epi16(first32(n), from.cast()) }
    }
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    #[inline]
    unsafe fn sixteen(from: *const bf16, n: usize) -> __m512i {
        // SAFETY: lanes past `n` are not accessed.
        unsafe { _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first(n), from.cast())) }
    }
}

impl Read<f32> for Exact {
    const KIND: Kind = Kind::F32;
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    #[inline]
    unsafe fn line(from: *const f32, n: usize) -> __m512i {
        // SAFETY: lanes past `n` are not accessed.
        unsafe { _mm512_castps_si512(_mm512_maskz_loadu_ps(first(n), from)) }
    }
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    #[inline]
    unsafe fn sixteen(from: *const f32, n: usize) -> __m512i {
        // SAFETY: passed on unchanged.
        unsafe { Self::line(from, n) }
    }
}

/// Packs rows whose depths lie side by side.
///
/// # Safety
/// The processor must have AVX512-BF16, `from` hold rows `stride` apart as far as they are asked
/// for, the height be at most [`HEIGHT`], and `to` valid for `height` words per word of a row.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn pack_rows<T, R: Read<T>>(from: &[T], part: Part<'_>, to: *mut u32) {
    let Part {
        stride,
        row,
        height,
        depths,
    } = part;
    let mask = first(height);
    let mut depth = depths.start;
    let mut word = 0;
    while depth < depths.end {
        let n = (depths.end - depth).min(16 * R::KIND.per_word());
        let mut rows = [_mm512_setzero_si512(); 16];
        // SAFETY: `n` numbers of each row are inside the slice, and words inside `to`.
        unsafe {
            for (i, words) in rows.iter_mut().enumerate().take(height) {
                *words = R::line(from.as_ptr().add((row + i) * stride + depth), n);
            }
            for words in transpose(rows).into_iter().take(R::KIND.words(n)) {
                _mm512_mask_storeu_epi32(to.add(word * height).cast(), mask, words);
                word += 1;
            }
        }
        depth += n;
    }
}

/// Packs rows that lie side by side, their depths `stride` apart.
///
/// # Safety
/// As [`pack_rows`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn pack_columns<T, R: Read<T>>(from: &[T], part: Part<'_>, to: *mut u32) {
    let Part {
        stride,
        row,
        height,
        depths,
    } = part;
    let mask = first(height);
    let per_word = R::KIND.per_word();
    for (word, depth) in depths.clone().step_by(per_word).enumerate() {
        // SAFETY: `height` numbers at each depth are inside the slice, and words inside `to`.
        unsafe {
            let from = from.as_ptr().add(depth * stride + row);
            let mut words = R::sixteen(from, height);
            if per_word == 2 && depth + 1 < depths.end {
                let odd = R::sixteen(from.add(stride), height);
                words = _mm512_or_si512(words, _mm512_slli_epi32::<16>(odd));
            }
            _mm512_mask_storeu_epi32(to.add(word * height).cast(), mask, words);
        }
    }
}
