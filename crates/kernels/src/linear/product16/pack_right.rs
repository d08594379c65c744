//! The right operand as panels of [`WIDTH`] columns, decoded a few rows at a time.

use std::arch::x86_64::*;
use std::ops::Range;

use half::bf16;

use super::Orientation;
use super::tile::{Line, WIDTH, first32, transpose};
use crate::cpu::Decode;

/// Rows decoded at a time where columns of the matrix make columns of the product.
const ROWS: usize = 32;

/// How many rows ahead of their use numbers are asked for there.
const AHEAD: usize = 8;

/// Packs `cols` of the product at `depths` to `to`: panel by panel, pair by pair of depths, two
/// lines each. Of a last panel with at most 16 columns the second lines are left alone.
///
/// `decoded` is scratch memory.
///
/// # Safety
/// The processor must have AVX512-BF16, and `to` be valid for writing a panel per [`WIDTH`] columns.
pub(super) unsafe fn pack<D: Decode>(
    right: &D,
    orientation: Orientation,
    cols: &Range<usize>,
    depths: &Range<usize>,
    decoded: &mut Vec<u16>,
    to: *mut Line,
) {
    let panel_lines = 2 * depths.len().div_ceil(2);
    match (orientation, right.bf16_rows()) {
        (Orientation::Rows, rows) => {
            for (panel, start) in cols.clone().step_by(WIDTH).enumerate() {
                let part = start..(start + WIDTH).min(cols.end);
                let (from, stride) = match rows {
                    Some((values, stride)) => {
                        (&as_bits(values)[start * stride + depths.start..], stride)
                    }
                    None => {
                        decoded.resize(part.len() * depths.len(), 0);
                        right.decode_bf16(part.clone(), depths.clone(), decoded);
                        (&decoded[..], depths.len())
                    }
                };
                assert!(from.len() >= (part.len() - 1) * stride + depths.len());
                // SAFETY: the slice holds the rows, and `to` the panel.
                unsafe {
                    let to = to.add(panel * panel_lines);
                    pack_rows(from.as_ptr(), stride, part.len(), depths.len(), to);
                }
            }
        }
        (Orientation::Columns, rows) => {
            for start in depths.clone().step_by(ROWS) {
                let part = start..(start + ROWS).min(depths.end);
                let (from, stride) = match rows {
                    Some((values, stride)) => {
                        (&as_bits(values)[start * stride + cols.start..], stride)
                    }
                    None => {
                        decoded.resize(part.len() * cols.len(), 0);
                        right.decode_bf16(part.clone(), cols.clone(), decoded);
                        (&decoded[..], cols.len())
                    }
                };
                assert!(from.len() >= (part.len() - 1) * stride + cols.len());
                // SAFETY: the slice holds the rows, and `to` the panels.
                unsafe {
                    let to = to.add(start - depths.start);
                    let shape = (part.len(), cols.len());
                    pack_columns(from.as_ptr(), stride, shape, to, panel_lines);
                }
            }
        }
    }
}

fn as_bits(values: &[bf16]) -> &[u16] {
    // SAFETY: bf16 is a transparent u16.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), values.len()) }
}

/// Packs `count` rows of `len` numbers, each row a column of the panel.
///
/// # Safety
/// The processor must have AVX512-BF16, `from` be valid for reading the rows, `to` for writing.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn pack_rows(from: *const u16, stride: usize, count: usize, len: usize, to: *mut Line) {
    for half in 0..count.div_ceil(16) {
        let rows_here = (count - 16 * half).min(16);
        for at in (0..len).step_by(32) {
            let n = (len - at).min(32);
            let mut rows = [_mm512_setzero_si512(); 16];
            // SAFETY: lanes past `n` are not accessed, and pairs stay inside the panel.
            unsafe {
                for (i, words) in rows.iter_mut().enumerate().take(rows_here) {
                    let from = from.add((16 * half + i) * stride + at);
                    // The sixteen rows that come next; prefetchers see no pattern in this.
                    let next = from.wrapping_add(16 * stride);
                    _mm_prefetch::<_MM_HINT_T0>(next.cast());
                    *words = _mm512_maskz_loadu_epi16(first32(n), from.cast());
                }
                let to = to.add(at + half);
                for (j, words) in transpose(rows).into_iter().enumerate().take(n.div_ceil(2)) {
                    _mm512_store_si512(to.add(2 * j).cast(), words);
                }
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
