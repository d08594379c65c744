//! Intervals that hold the true value at a stated rate.

use rayon::prelude::*;
use statrs::distribution::{ContinuousCDF, Normal};

use super::draws::{below, draw};

/// A range of values.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// Whether a value lies inside, the ends included.
    #[must_use]
    pub fn contains(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }
}

/// The number of standard deviations that hold `level` of a normal distribution, both sides together.
pub(super) fn z_for(level: f64) -> f64 {
    quantile(0.5 + level.clamp(0.0, 1.0 - 1e-12) / 2.0)
}

pub(super) fn quantile(probability: f64) -> f64 {
    Normal::standard().inverse_cdf(probability)
}

/// `estimate ± z·stderr`.
#[must_use]
pub fn normal_interval(estimate: f64, stderr: f64, level: f64) -> Interval {
    let half = z_for(level) * stderr;
    Interval {
        low: estimate - half,
        high: estimate + half,
    }
}

/// Wilson's interval of a rate: right also for few trials and for rates near 0 and 1.
///
/// # Source
/// Wilson 1927, Probable inference, the law of succession, and statistical inference, JASA 22(158)
///
/// # Examples
/// ```
/// use flametune_eval::stats::wilson_interval;
///
/// let none_of_ten = wilson_interval(0, 10, 0.95);
/// assert_eq!(none_of_ten.low, 0.0);
/// assert!((none_of_ten.high - 0.277_533).abs() < 1e-6);
/// ```
#[must_use]
pub fn wilson_interval(successes: usize, trials: usize, level: f64) -> Interval {
    wilson_of_rate(successes as f64, trials as f64, level)
}

/// The same for counts with halves, such as wins with ties counted half.
pub(crate) fn wilson_of_rate(successes: f64, trials: f64, level: f64) -> Interval {
    if trials <= 0.0 {
        return Interval {
            low: 0.0,
            high: 1.0,
        };
    }
    let z2 = z_for(level).powi(2);
    let rate = successes / trials;
    let scale = 1.0 + z2 / trials;
    let centre = (rate + z2 / (2.0 * trials)) / scale;
    let half = (z2 * (rate * (1.0 - rate) / trials + z2 / (4.0 * trials * trials))).sqrt() / scale;
    Interval {
        low: if successes <= 0.0 {
            0.0
        } else {
            (centre - half).max(0.0)
        },
        high: if successes >= trials {
            1.0
        } else {
            (centre + half).min(1.0)
        },
    }
}

/// Percentile interval of a statistic over resamples with replacement.
///
/// `None` for no items or no resamples.
///
/// # Source
/// Efron and Tibshirani 1993, An Introduction to the Bootstrap, §13.3
#[must_use]
pub fn bootstrap_interval<T: Sync>(
    items: &[T],
    resamples: usize,
    level: f64,
    seed: u64,
    statistic: impl Fn(&[&T]) -> f64 + Sync,
) -> Option<Interval> {
    if items.is_empty() || resamples == 0 {
        return None;
    }
    let mut values = resampled(items, resamples, seed, statistic);
    values.sort_by(f64::total_cmp);
    let tail = (1.0 - level) / 2.0;
    Some(Interval {
        low: percentile(&values, tail),
        high: percentile(&values, 1.0 - tail),
    })
}

/// The statistic of every resample.
pub(super) fn resampled<T: Sync>(
    items: &[T],
    resamples: usize,
    seed: u64,
    statistic: impl Fn(&[&T]) -> f64 + Sync,
) -> Vec<f64> {
    (0..resamples as u64)
        .into_par_iter()
        .map(|round| {
            let picked: Vec<&T> = (0..items.len() as u64)
                .map(|index| &items[below(draw(seed, "bootstrap", round, index), items.len())])
                .collect();
            statistic(&picked)
        })
        .collect()
}

/// Linear between the neighbours, of sorted values.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let place = share.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a place in the list"
    )]
    let below = place.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (place - below as f64) * (sorted[above] - sorted[below])
}
