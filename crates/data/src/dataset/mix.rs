//! Which source the next example comes from.

use crate::random::{draw, unit};

/// 2⁶⁴ divided by the golden ratio: multiples of it fall most evenly on the circle of `u64`.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Chooses among sources by weight; `None` stands for those that are through.
///
/// Step `n` of an epoch looks at the point `frac(x₀ + n/φ)` of the unit interval, in which each source has a piece as
/// long as its share; `x₀` depends on seed and epoch. The points of this sequence lie so evenly that after `n` steps
/// the number of examples of a source differs from `n · share` by a few at most (it grows with the logarithm of `n`),
/// where independent draws would differ by the square root of `n`. The choice is a function of its arguments, so
/// nothing has to be saved to go on with it.
///
/// # Source
/// - Kuipers and Niederreiter 1974, Uniform Distribution of Sequences, chapter 2, §3: discrepancy of `(nα)`
pub(super) fn choose(weights: &[Option<f64>], seed: u64, epoch: u64, step: u64) -> Option<usize> {
    let total: f64 = weights.iter().flatten().sum();
    let point = draw(seed, "mixture", epoch, 0).wrapping_add(step.wrapping_mul(GOLDEN));
    let mut left = unit(point) * total;
    let mut last = None;
    for (index, weight) in weights.iter().enumerate() {
        let Some(weight) = weight else { continue };
        last = Some(index);
        if left < *weight {
            break;
        }
        left -= weight;
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_stay_close_to_the_shares_at_every_step() {
        for (seed, weights) in [
            (1, vec![0.85, 0.15]),
            (2, vec![5.0, 3.0, 1.0, 1.0]),
            (3, vec![0.999, 0.001]),
            (4, vec![1.0 / 3.0, 0.5, 1.0 / 6.0]),
        ] {
            let total: f64 = weights.iter().sum();
            let alive: Vec<_> = weights.iter().copied().map(Some).collect();
            let mut counts = vec![0.0; weights.len()];
            for step in 0..20_000_u64 {
                counts[choose(&alive, seed, 0, step).unwrap()] += 1.0;
                let n = (step + 1) as f64;
                // N·D*_N of the golden ratio is below 1 + ln N; an interval costs twice that of one from zero.
                let bound = 2.0 * (1.0 + n.ln());
                for (count, weight) in counts.iter().zip(&weights) {
                    let off = count - n * weight / total;
                    assert!(off.abs() < bound, "{weights:?} step {step}: off by {off}");
                }
            }
        }
    }

    #[test]
    fn sources_that_are_through_are_not_chosen() {
        for step in 0..100 {
            assert_eq!(choose(&[None, Some(1.0), None], 0, 0, step), Some(1));
        }
        assert_eq!(choose(&[None, None], 0, 0, 0), None);
    }
}
