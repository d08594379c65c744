//! Copies of keys and values in the order in which the inner loop reads them.

use super::heads::Head;
use crate::cpu::Stored;
use crate::simd::{Panels, Simd, read, write};

/// Room for `k` rows of `columns` values in panels of a tile's width, the last one padded.
#[inline(always)]
pub(super) fn panel_room<S: Simd>(k: usize, columns: usize) -> usize {
    columns.next_multiple_of(S::LANES * S::TILE_VECS) * k
}

/// Packs the transposes of `count` vectors from `first` on: `head_dim` rows of `count` columns,
/// columns past them zero.
#[inline(always)]
pub(super) fn transposed<S: Simd, E: Stored>(
    from: Head<'_, E>,
    first: usize,
    count: usize,
    to: &mut [f32],
) -> Panels {
    let wide = S::LANES * S::TILE_VECS;
    let d = from.head_dim;
    for (panel, to) in to.chunks_exact_mut((wide * d).max(1)).enumerate() {
        let start = (panel * wide).min(count);
        let filled = (count - start).min(wide);
        for column in 0..filled {
            let vector = from.vector(first + start + column);
            for (to, value) in to.chunks_exact_mut(wide).zip(vector) {
                to[column] = value.to_f32();
            }
        }
        if filled < wide {
            for to in to.chunks_exact_mut(wide) {
                to[filled..].fill(0.0);
            }
        }
    }
    Panels {
        start: to.as_ptr(),
        row_stride: wide,
        panel_stride: wide * d,
    }
}

/// Copies `count` vectors from `first` on, each times `factor`, into rows of `padded` values, the
/// rest of each row zero.
#[inline(always)]
pub(super) fn rows<S: Simd, E: Stored>(
    s: S,
    from: Head<'_, E>,
    first: usize,
    count: usize,
    factor: f32,
    to: &mut [f32],
    padded: usize,
) {
    let factor = s.splat(factor);
    for (i, to) in to.chunks_exact_mut(padded.max(1)).enumerate().take(count) {
        let vector = from.vector(first + i);
        for at in (0..padded).step_by(S::LANES) {
            let value = if at < vector.len() {
                read(s, vector, at)
            } else {
                s.splat(0.0)
            };
            write(s, s.mul(value, factor), to, at);
        }
    }
}

/// Rows of `padded` values as panels, in place.
#[inline(always)]
pub(super) fn in_place<S: Simd>(rows: &[f32], padded: usize) -> Panels {
    Panels {
        start: rows.as_ptr(),
        row_stride: padded,
        panel_stride: S::LANES * S::TILE_VECS,
    }
}
