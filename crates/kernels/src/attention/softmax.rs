//! One row of scores, turned into weights.

use super::visible::Visible;
use crate::simd::{Simd, exp, read, tanh, write};

/// A block of keys, and what one query sees of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) visible: &'a Visible,
    /// The first key of the block.
    pub(super) first: usize,
}

impl Row<'_> {
    /// Sets the scores of hidden keys to `-∞`; `sees` decides inside a range with gaps.
    #[inline(always)]
    pub(super) fn hide(&self, scores: &mut [f32], sees: impl Fn(usize) -> bool) {
        let n = scores.len();
        let low = self.visible.keys.start.saturating_sub(self.first).min(n);
        let high = self
            .visible
            .keys
            .end
            .saturating_sub(self.first)
            .min(n)
            .max(low);
        scores[..low].fill(f32::NEG_INFINITY);
        scores[high..].fill(f32::NEG_INFINITY);
        if self.visible.gaps {
            for (i, score) in scores[low..high].iter_mut().enumerate() {
                if !sees(self.first + low + i) {
                    *score = f32::NEG_INFINITY;
                }
            }
        }
    }
}

/// `cap·tanh(z)` in place.
#[inline(always)]
pub(super) fn soft_cap<S: Simd>(s: S, scores: &mut [f32], cap: f32) {
    for at in (0..scores.len()).step_by(S::LANES) {
        let capped = s.mul(s.splat(cap), tanh(s, read(s, scores, at)));
        write(s, capped, scores, at);
    }
}

/// The running maximum and the running sum of exponentials of one query's scores.
#[derive(Debug, Clone, Copy)]
pub(super) struct Running {
    pub(super) max: f32,
    pub(super) sum: f32,
}

impl Running {
    pub(super) const EMPTY: Self = Self {
        max: f32::NEG_INFINITY,
        sum: 0.0,
    };

    /// Replaces scores by `e^(score − max)` for the new running maximum and returns the factor
    /// by which what was accumulated under the old maximum shrinks.
    ///
    /// The length of `scores` must be a multiple of the register's.
    #[inline(always)]
    pub(super) fn absorb<S: Simd>(&mut self, s: S, scores: &mut [f32]) -> f32 {
        let mut largest = s.splat(self.max);
        for at in (0..scores.len()).step_by(S::LANES) {
            largest = s.max(largest, read(s, scores, at));
        }
        let max = s.largest(largest);
        if max == f32::NEG_INFINITY {
            scores.fill(0.0);
            return 1.0;
        }
        let shift = s.splat(max);
        let mut sum = s.splat(0.0);
        for at in (0..scores.len()).step_by(S::LANES) {
            let weight = exp(s, s.sub(read(s, scores, at), shift));
            sum = s.add(sum, weight);
            write(s, weight, scores, at);
        }
        let shrink = (self.max - max).exp();
        self.sum = self.sum * shrink + s.sum(sum);
        self.max = max;
        shrink
    }

    /// `ln Σ e^score`; `+∞` for a query that sees no key, so that every weight recomputed from
    /// it is zero.
    pub(super) fn log_sum(&self) -> f32 {
        if self.sum > 0.0 {
            self.max + self.sum.ln()
        } else {
            f32::INFINITY
        }
    }
}

/// `to *= factor`, if that changes anything.
#[inline(always)]
pub(super) fn shrink<S: Simd>(s: S, to: &mut [f32], factor: f32) {
    if factor != 1.0 {
        for at in (0..to.len()).step_by(S::LANES) {
            let value = s.mul(read(s, to, at), s.splat(factor));
            write(s, value, to, at);
        }
    }
}
