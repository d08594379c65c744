//! The two inner loops of every matrix product here: dot products of dense rows, and a tile of
//! accumulators fed by broadcasts.
#![allow(
    clippy::needless_range_loop,
    reason = "an index addresses registers and memory alike"
)]
#![allow(
    unsafe_code,
    reason = "inner loops over raw rows, bounds stated per function"
)]

use super::{Element, Kernel, Simd};

/// `out[r][m] = w[r] · x[m]` over `k` values, each sum in one fixed order that depends on neither
/// `R` nor `M`. The values `ahead` of those of `w` are prefetched.
///
/// # Safety
/// Every pointer must be valid for reading `k` values.
#[inline(always)]
pub(crate) unsafe fn dot_rows<S: Simd, W: Element, const R: usize, const M: usize>(
    s: S,
    w: [*const W; R],
    x: [*const f32; M],
    k: usize,
    ahead: usize,
) -> [[f32; M]; R] {
    let zero = s.splat(0.0);
    let mut sums = [[zero; M]; R];
    let mut at = 0;
    // SAFETY: reads stay below `k`, for which the caller vouches.
    unsafe {
        while at + S::LANES <= k {
            let mut xs = [zero; M];
            for m in 0..M {
                xs[m] = s.load(x[m].add(at));
            }
            for r in 0..R {
                s.prefetch(w[r].wrapping_add(at + ahead));
                let row = W::load(s, w[r].add(at));
                for m in 0..M {
                    sums[r][m] = s.mul_add(row, xs[m], sums[r][m]);
                }
            }
            at += S::LANES;
        }
        let rest = k - at;
        if rest > 0 {
            for r in 0..R {
                let row = W::load_head(s, w[r].add(at), rest);
                for m in 0..M {
                    let x = s.load_head(x[m].add(at), rest);
                    sums[r][m] = s.mul_add(row, x, sums[r][m]);
                }
            }
        }
    }
    let mut out = [[0.0; M]; R];
    for r in 0..R {
        for m in 0..M {
            out[r][m] = s.sum(sums[r][m]);
        }
    }
    out
}

/// The right-hand matrix of [`product`]: `k` rows cut into panels of `TILE_VECS` registers.
///
/// Row `i` of panel `p` starts at `start + p·panel_stride + i·row_stride`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Panels {
    pub(crate) start: *const f32,
    pub(crate) row_stride: usize,
    pub(crate) panel_stride: usize,
}

/// A strided matrix `[m, k]`: entry `(i, j)` at `start + i·row_stride + j·col_stride`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Strided {
    pub(crate) start: *const f32,
    pub(crate) row_stride: usize,
    pub(crate) col_stride: usize,
}

/// `c = a·b`, or `c += a·b`, for `c` of `rows` rows of `vecs` registers, `c_stride` apart.
///
/// # Safety
/// `a` must be valid for reading `[rows, k]`, `b` for `k` rows of `vecs` registers in its panels,
/// `c` for writing, and reading if `accumulate`, `rows` rows of `vecs·LANES` values.
pub(crate) unsafe fn product<S: Simd>(
    s: S,
    (rows, vecs, k): (usize, usize, usize),
    a: Strided,
    b: Panels,
    c: (*mut f32, usize),
    accumulate: bool,
) {
    s.call(Product {
        rows,
        vecs,
        k,
        a,
        b,
        c,
        accumulate,
    });
}

/// Half the rows of the tallest tile.
const HALF: usize = 6;

/// The arguments of [`product`], with its promises.
struct Product {
    rows: usize,
    vecs: usize,
    k: usize,
    a: Strided,
    b: Panels,
    c: (*mut f32, usize),
    accumulate: bool,
}

impl Kernel for Product {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self {
            rows,
            vecs,
            k,
            a,
            b,
            c: (c, c_stride),
            accumulate,
        } = self;
        // A single register a row leaves room for twice the rows, which keeps the adders busy.
        let double = vecs == 1 && S::TILE_ROWS == HALF;
        let mut row = 0;
        while row < rows {
            let tall = if double && rows - row >= 2 * HALF {
                2 * HALF
            } else {
                (rows - row).min(S::TILE_ROWS)
            };
            let mut vec = 0;
            let mut panel = 0;
            while vec < vecs {
                let wide = (vecs - vec).min(S::TILE_VECS);
                // SAFETY: the tile lies inside the matrices that `product`'s caller vouches for.
                unsafe {
                    let a = Strided {
                        start: a.start.add(row * a.row_stride),
                        ..a
                    };
                    let b = Panels {
                        start: b.start.add(panel * b.panel_stride),
                        ..b
                    };
                    let c = (c.add(row * c_stride + vec * S::LANES), c_stride);
                    tile_of_width(s, (tall, wide, k), a, b, c, accumulate);
                }
                vec += wide;
                panel += 1;
            }
            row += tall;
        }
    }
}

/// Picks the code of a tile by its width in registers.
///
/// # Safety
/// As [`product`], within one panel.
#[inline(always)]
unsafe fn tile_of_width<S: Simd>(
    s: S,
    (tall, wide, k): (usize, usize, usize),
    a: Strided,
    b: Panels,
    c: (*mut f32, usize),
    accumulate: bool,
) {
    // SAFETY: passed on unchanged.
    unsafe {
        match wide {
            1 if tall == 2 * HALF => tile::<S, { 2 * HALF }, 1>(s, k, a, b, c, accumulate),
            1 => tile_of_height::<S, 1>(s, (tall, k), a, b, c, accumulate),
            2 => tile_of_height::<S, 2>(s, (tall, k), a, b, c, accumulate),
            3 => tile_of_height::<S, 3>(s, (tall, k), a, b, c, accumulate),
            _ => tile_of_height::<S, 4>(s, (tall, k), a, b, c, accumulate),
        }
    }
}

/// Picks the code of a tile by its height in rows.
///
/// # Safety
/// As [`product`], within one panel.
#[inline(always)]
unsafe fn tile_of_height<S: Simd, const WIDE: usize>(
    s: S,
    (tall, k): (usize, usize),
    a: Strided,
    b: Panels,
    c: (*mut f32, usize),
    accumulate: bool,
) {
    // SAFETY: passed on unchanged.
    unsafe {
        match tall {
            1 => tile::<S, 1, WIDE>(s, k, a, b, c, accumulate),
            2 => tile::<S, 2, WIDE>(s, k, a, b, c, accumulate),
            3 => tile::<S, 3, WIDE>(s, k, a, b, c, accumulate),
            4 => tile::<S, 4, WIDE>(s, k, a, b, c, accumulate),
            5 => tile::<S, 5, WIDE>(s, k, a, b, c, accumulate),
            _ => tile::<S, 6, WIDE>(s, k, a, b, c, accumulate),
        }
    }
}

/// A tile of `TALL` rows of `WIDE` registers, held in registers over the whole of `k`.
///
/// # Safety
/// As [`product`].
#[inline(always)]
unsafe fn tile<S: Simd, const TALL: usize, const WIDE: usize>(
    s: S,
    k: usize,
    a: Strided,
    b: Panels,
    (c, c_stride): (*mut f32, usize),
    accumulate: bool,
) {
    let mut sums = [[s.splat(0.0); WIDE]; TALL];
    // SAFETY: `i < TALL`, `j < WIDE` and `step < k` stay inside the caller's matrices.
    unsafe {
        if accumulate {
            for i in 0..TALL {
                for j in 0..WIDE {
                    sums[i][j] = s.load(c.add(i * c_stride + j * S::LANES));
                }
            }
        }
        for step in 0..k {
            let from = b.start.add(step * b.row_stride);
            let mut right = [s.splat(0.0); WIDE];
            for j in 0..WIDE {
                right[j] = s.load(from.add(j * S::LANES));
            }
            let from = a.start.add(step * a.col_stride);
            for i in 0..TALL {
                let left = s.splat(*from.add(i * a.row_stride));
                for j in 0..WIDE {
                    sums[i][j] = s.mul_add(left, right[j], sums[i][j]);
                }
            }
        }
        for i in 0..TALL {
            for j in 0..WIDE {
                s.store(sums[i][j], c.add(i * c_stride + j * S::LANES));
            }
        }
    }
}
