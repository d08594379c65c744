//! A tile of logits: some rows, [`TILE`] classes or fewer.

use crate::simd::{Kernel, Simd, exp, read, tanh, write};

/// Classes per tile, and the distance between the rows of a tile. Fixed, so that sums do not
/// depend on the number of threads; a multiple of every register's length.
pub(super) const TILE: usize = 256;

/// How logits are made from products: `cap·tanh(scale·u / cap)`, or `scale·u`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shaping {
    pub(super) scale: f32,
    pub(super) cap: Option<f32>,
}

/// What a row of a tile says about its logits `z`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Stats {
    pub(super) max: f32,
    /// `Σ e^(z − max)`.
    pub(super) sum: f32,
    /// `Σ z`, if asked for.
    pub(super) total: f32,
    /// `Σ e^(z − max)·(z − max)`, if asked for.
    pub(super) weighted: f32,
    /// The logit of the row's label, if the tile has it.
    pub(super) label: f32,
}

/// What stays in a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// `e^(z − max)`.
    Exponentials,
    /// `z`, from which the slope of the cap follows.
    Logits,
}

/// Which sums are wanted besides that of the exponentials.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sums {
    pub(super) total: bool,
    pub(super) weighted: bool,
}

/// Turns products into logits and summarises each row.
pub(super) struct Summarise<'a> {
    /// Rows of [`TILE`] numbers, of which the first `count` are classes.
    pub(super) z: &'a mut [f32],
    pub(super) count: usize,
    /// The place of each row's label, if the tile has it.
    pub(super) labels: &'a [Option<usize>],
    pub(super) shaping: Shaping,
    pub(super) keep: Keep,
    pub(super) sums: Sums,
    pub(super) stats: &'a mut [Stats],
}

impl Kernel for Summarise<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let padded = self.count.next_multiple_of(S::LANES);
        let rows = self.z.chunks_exact_mut(TILE).zip(self.labels);
        for ((z, label), stats) in rows.zip(self.stats) {
            shape(s, &mut z[..self.count], self.shaping);
            let label = label.map_or(0.0, |label| z[label]);
            let total = if self.sums.total {
                sum(s, &z[..self.count])
            } else {
                0.0
            };
            // Lanes past the last class weigh nothing.
            z[self.count..padded].fill(f32::NEG_INFINITY);
            *stats = Stats {
                label,
                total,
                ..exponentials(s, &mut z[..padded], self.keep, self.sums.weighted)
            };
        }
    }
}

/// Scales and caps in place.
#[inline(always)]
fn shape<S: Simd>(s: S, z: &mut [f32], Shaping { scale, cap }: Shaping) {
    match cap {
        Some(cap) => {
            let (inner, cap) = (s.splat(scale / cap), s.splat(cap));
            for at in (0..z.len()).step_by(S::LANES) {
                let capped = s.mul(cap, tanh(s, s.mul(inner, read(s, z, at))));
                write(s, capped, z, at);
            }
        }
        None if scale != 1.0 => {
            let scale = s.splat(scale);
            for at in (0..z.len()).step_by(S::LANES) {
                write(s, s.mul(scale, read(s, z, at)), z, at);
            }
        }
        None => {}
    }
}

#[inline(always)]
fn sum<S: Simd>(s: S, z: &[f32]) -> f32 {
    let mut sum = s.splat(0.0);
    for at in (0..z.len()).step_by(S::LANES) {
        sum = s.add(sum, read(s, z, at));
    }
    s.sum(sum)
}

/// The largest logit and the sums over exponentials, which replace the logits if they are kept.
#[inline(always)]
fn exponentials<S: Simd>(s: S, z: &mut [f32], keep: Keep, weighted: bool) -> Stats {
    let mut largest = s.splat(f32::NEG_INFINITY);
    for at in (0..z.len()).step_by(S::LANES) {
        largest = s.max(largest, read(s, z, at));
    }
    let max = s.largest(largest);
    if max == f32::NEG_INFINITY {
        // Every class is impossible, or not a number: the sum tells which.
        let sum = if z.iter().any(|z| z.is_nan()) {
            f32::NAN
        } else {
            0.0
        };
        z.fill(sum);
        return Stats {
            max,
            sum,
            ..Stats::default()
        };
    }
    let (shift, lowest) = (s.splat(max), s.splat(-100.0));
    let (mut sum, mut along) = (s.splat(0.0), s.splat(0.0));
    for at in (0..z.len()).step_by(S::LANES) {
        let below = s.sub(read(s, z, at), shift);
        let weight = exp(s, below);
        sum = s.add(sum, weight);
        if weighted {
            // Below `lowest` the weight is zero; 0·∞ would not be.
            along = s.mul_add(weight, s.max(lowest, below), along);
        }
        if keep == Keep::Exponentials {
            write(s, weight, z, at);
        }
    }
    Stats {
        max,
        sum: s.sum(sum),
        weighted: s.sum(along),
        ..Stats::default()
    }
}

/// A row's part of the gradient of the products `u`:
/// `(p·scale − shift − [label]·label)·(1 − (z / cap)²)`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slope {
    /// Of a tile of exponentials, `e^(max − log_sum)` is part of it.
    pub(super) scale: f32,
    pub(super) shift: f32,
    pub(super) label: f32,
    /// `ln Σ e^z`, for a tile of logits.
    pub(super) log_sum: f32,
}

/// Makes the gradient of the products from what a tile kept.
pub(super) struct Slopes<'a> {
    /// As [`Summarise`] left it.
    pub(super) kept: &'a [f32],
    pub(super) count: usize,
    pub(super) labels: &'a [Option<usize>],
    /// The cap, if the tile keeps logits.
    pub(super) cap: Option<f32>,
    pub(super) slopes: &'a [Slope],
    /// Rows of [`TILE`] numbers.
    pub(super) out: &'a mut [f32],
}

impl Kernel for Slopes<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let padded = self.count.next_multiple_of(S::LANES);
        let rows = self.kept.chunks_exact(TILE).zip(self.labels);
        let rows = rows.zip(self.out.chunks_exact_mut(TILE)).zip(self.slopes);
        for (((kept, label), out), slope) in rows {
            let (kept, out) = (&kept[..padded], &mut out[..padded]);
            let (scale, shift) = (s.splat(slope.scale), s.splat(-slope.shift));
            match self.cap {
                None => {
                    for at in (0..padded).step_by(S::LANES) {
                        write(s, s.mul_add(read(s, kept, at), scale, shift), out, at);
                    }
                    if let Some(label) = *label {
                        out[label] -= slope.label;
                    }
                }
                Some(cap) => {
                    let (inverse, one) = (s.splat(1.0 / cap), s.splat(1.0));
                    let log_sum = s.splat(slope.log_sum);
                    for at in (0..padded).step_by(S::LANES) {
                        let z = read(s, kept, at);
                        let p = exp(s, s.sub(z, log_sum));
                        let t = s.mul(z, inverse);
                        let steep = s.sub(one, s.mul(t, t));
                        write(s, s.mul(s.mul_add(p, scale, shift), steep), out, at);
                    }
                    if let Some(label) = *label {
                        let t = kept[label] / cap;
                        out[label] -= slope.label * (1.0 - t * t);
                    }
                }
            }
        }
    }
}
