//! The right operand as panels of [`WIDTH`] columns, decoded a few rows at a time.

use std::arch::x86_64::*;
use std::ops::Range;

use half::bf16;

use super::Orientation;
use super::tile::{Kind, Line, WIDTH, first, first32, transpose};
use crate::cpu::Decode;

/// Rows decoded at a time where columns of the matrix make columns of the product.
const ROWS: usize = 32;

/// How many rows ahead of their use numbers are asked for there.
const AHEAD: usize = 8;

/// Room for numbers on their way into panels.
#[derive(Default)]
pub(super) struct Decoded {
    bits: Vec<u16>,
    numbers: Vec<f32>,
}

/// Packs `cols` of the product at `depths` to `to`: panel by panel, word by word of depths, two
/// lines each. Of a last panel with at most 16 columns the second lines are left alone.
///
/// # Safety
/// The processor must have AVX512-BF16, and `to` be valid for writing a panel per [`WIDTH`] columns.
pub(super) unsafe fn pack<D: Decode>(
    kind: Kind,
    right: &D,
    orientation: Orientation,
    cols: &Range<usize>,
    depths: &Range<usize>,
    decoded: &mut Decoded,
    to: *mut Line,
) {
    let panel_lines = 2 * kind.words(depths.len());
    match orientation {
        Orientation::Rows => {
            for (panel, start) in cols.clone().step_by(WIDTH).enumerate() {
                let part = start..(start + WIDTH).min(cols.end);
                let (count, len) = (part.len(), depths.len());
                // SAFETY: the slices hold the rows, and `to` the panel.
                unsafe {
                    let to = to.add(panel * panel_lines);
                    match kind {
                        Kind::Bf16 => {
                            let (from, stride) =
                                bits(right, part, depths.clone(), &mut decoded.bits);
                            pack_rows::<u16>(from.as_ptr(), stride, count, len, to);
                        }
                        Kind::F32 => {
                            let numbers = &mut decoded.numbers;
                            let (from, stride) =
                                self::numbers(right, part, depths.clone(), numbers);
                            pack_rows::<f32>(from.as_ptr(), stride, count, len, to);
                        }
                    }
                }
            }
        }
        Orientation::Columns => {
            for start in depths.clone().step_by(ROWS) {
                let part = start..(start + ROWS).min(depths.end);
                let shape = (part.len(), cols.len());
                // SAFETY: the slices hold the rows, and `to` the panels.
                unsafe {
                    let to = to.add(2 * kind.words(start - depths.start));
                    match kind {
                        Kind::Bf16 => {
                            let (from, stride) = bits(right, part, cols.clone(), &mut decoded.bits);
                            pack_columns(from.as_ptr(), stride, shape, to, panel_lines);
                        }
                        Kind::F32 => {
                            let numbers = &mut decoded.numbers;
                            let (from, stride) = self::numbers(right, part, cols.clone(), numbers);
                            copy_columns(from.as_ptr(), stride, shape, to, panel_lines);
                        }
                    }
                }
            }
        }
    }
}

/// A part of the matrix in bf16, where it lies or in `room`, and the distance between its rows.
fn bits<'a, D: Decode>(
    right: &'a D,
    rows: Range<usize>,
    cols: Range<usize>,
    room: &'a mut Vec<u16>,
) -> (&'a [u16], usize) {
    let (count, width) = (rows.len(), cols.len());
    let (from, stride) = match right.bf16_rows() {
        Some((values, stride)) => (&as_bits(values)[rows.start * stride + cols.start..], stride),
        None => {
            room.resize(count * width, 0);
            right.decode_bf16(rows, cols, room);
            (&room[..], width)
        }
    };
    assert!(from.len() >= (count - 1) * stride + width);
    (from, stride)
}

/// The same in f32.
fn numbers<'a, D: Decode>(
    right: &'a D,
    rows: Range<usize>,
    cols: Range<usize>,
    room: &'a mut Vec<f32>,
) -> (&'a [f32], usize) {
    let (count, width) = (rows.len(), cols.len());
    let (from, stride) = match right.f32_rows() {
        Some((values, stride)) => (&values[rows.start * stride + cols.start..], stride),
        None => {
            room.resize(count * width, 0.0);
            right.decode(rows, cols, room);
            (&room[..], width)
        }
    };
    assert!(from.len() >= (count - 1) * stride + width);
    (from, stride)
}

fn as_bits(values: &[bf16]) -> &[u16] {
    // SAFETY: bf16 is a transparent u16.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), values.len()) }
}

/// Numbers as they are packed: bits of bf16, or f32.
trait Packed: Copy {
    const KIND: Kind;
    /// Sixteen words of neighbouring depths, of which there are `n`; the others are zero.
    ///
    /// # Safety
    /// The processor must have AVX512-BF16, and `from` be valid for reading `n` numbers.
    unsafe fn line(from: *const Self, n: usize) -> __m512i;
}

impl Packed for u16 {
    const KIND: Kind = Kind::Bf16;
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    #[inline]
    unsafe fn line(from: *const Self, n: usize) -> __m512i {
        // SAFETY: lanes past `n` are not accessed.
        unsafe { _mm512_maskz_loadu_epi16(first32(n), from.cast()) }
    }
}

impl Packed for f32 {
    const KIND: Kind = Kind::F32;
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    #[inline]
    unsafe fn line(from: *const Self, n: usize) -> __m512i {
        // SAFETY: lanes past `n` are not accessed.
        unsafe { _mm512_castps_si512(_mm512_maskz_loadu_ps(first(n), from)) }
    }
}

/// Packs `count` rows of `len` numbers, each row a column of the panel.
///
/// # Safety
/// The processor must have AVX512-BF16, `from` be valid for reading the rows, `to` for writing.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn pack_rows<T: Packed>(
    from: *const T,
    stride: usize,
    count: usize,
    len: usize,
    to: *mut Line,
) {
    let depths = 16 * T::KIND.per_word();
    for half in 0..count.div_ceil(16) {
        let rows_here = (count - 16 * half).min(16);
        for at in (0..len).step_by(depths) {
            let n = (len - at).min(depths);
            let mut rows = [_mm512_setzero_si512(); 16];
            // SAFETY: lanes past `n` are not accessed, and words stay inside the panel.
            unsafe {
                for (i, words) in rows.iter_mut().enumerate().take(rows_here) {
                    let from = from.add((16 * half + i) * stride + at);
                    // The sixteen rows that come next; prefetchers see no pattern in this.
                    let next = from.wrapping_add(16 * stride);
                    _mm_prefetch::<_MM_HINT_T0>(next.cast());
                    *words = T::line(from, n);
                }
                let to = to.add(2 * T::KIND.words(at) + half);
                for (j, words) in transpose(rows)
                    .into_iter()
                    .enumerate()
                    .take(T::KIND.words(n))
                {
                    _mm512_store_si512(to.add(2 * j).cast(), words);
                }
            }
        }
    }
}

/// Packs `count` rows of `width` numbers of f32, each row a depth, to panels `panel_lines` apart.
///
/// # Safety
/// As [`pack_rows`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn copy_columns(
    from: *const f32,
    stride: usize,
    (count, width): (usize, usize),
    to: *mut Line,
    panel_lines: usize,
) {
    for row in 0..count {
        for panel in 0..width.div_ceil(WIDTH) {
            let left = width - panel * WIDTH;
            // SAFETY: lanes past `width` are not accessed, and lines stay inside the panels; a
            // prefetch reads nothing as far as the program can tell.
            unsafe {
                let from = from.add(row * stride + panel * WIDTH);
                let next = from.wrapping_add(AHEAD * stride);
                _mm_prefetch::<_MM_HINT_T0>(next.cast());
                _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(16).cast());
                let low = _mm512_maskz_loadu_ps(first(left), from);
                let high = _mm512_maskz_loadu_ps(first(left - left.min(16)), from.wrapping_add(16));
                let to = to.add(panel * panel_lines + 2 * row);
                _mm512_store_ps(to.cast(), low);
                _mm512_store_ps(to.add(1).cast(), high);
            }
        }
    }
}

/// Packs `count` rows of `width` numbers, two rows at a time a pair of depths, to panels
/// `panel_lines` apart.
///
/// # Safety
/// As [`pack_rows`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn pack_columns(
    from: *const u16,
    stride: usize,
    (count, width): (usize, usize),
    to: *mut Line,
    panel_lines: usize,
) {
    // Number `i` of the first row, then of the second, for the lower and the upper sixteen.
    let low = _mm512_set_epi16(
        47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36, 4,
        35, 3, 34, 2, 33, 1, 32, 0,
    );
    let high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    for row in (0..count).step_by(2) {
        for panel in 0..width.div_ceil(WIDTH) {
            let mask = first32(width - panel * WIDTH);
            // SAFETY: lanes past `width` are not accessed, and pairs stay inside the panels; a
            // prefetch reads nothing as far as the program can tell.
            unsafe {
                let from = from.add(row * stride + panel * WIDTH);
                for ahead in [AHEAD, AHEAD + 1] {
                    _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(ahead * stride).cast());
                }
                let even = _mm512_maskz_loadu_epi16(mask, from.cast());
                let odd = if row + 1 < count {
                    _mm512_maskz_loadu_epi16(mask, from.add(stride).cast())
                } else {
                    _mm512_setzero_si512()
                };
                let to = to.add(panel * panel_lines + row);
                _mm512_store_si512(to.cast(), _mm512_permutex2var_epi16(even, low, odd));
                _mm512_store_si512(to.add(1).cast(), _mm512_permutex2var_epi16(even, high, odd));
            }
        }
    }
}
