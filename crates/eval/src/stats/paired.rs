//! Two models on the same items: what differs is the pair, so the items' own difficulty cancels.

use statrs::distribution::{Binomial, DiscreteCDF};

use super::interval::{Interval, resampled};
use super::stderr::{mean, mean_stderr};

/// McNemar's test of right and wrong answers.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct McNemar {
    /// Items that only the first model has right.
    pub only_first: usize,
    /// Items that only the second model has right.
    pub only_second: usize,
    /// Two-sided exact binomial probability of a split at least this uneven if both are as good.
    pub p_value: f64,
}

/// Compares two lists of right and wrong on the same items.
///
/// # Source
/// McNemar 1947, Note on the sampling error of the difference between correlated proportions, Psychometrika 12(2);
/// the exact form, so that few discordant items are no problem
///
/// # Examples
/// ```
/// use flametune_eval::stats::mcnemar;
///
/// let first = [true, true, false, true, false, false];
/// let second = [true, true, true, true, true, true];
/// let test = mcnemar(&first, &second);
/// assert_eq!((test.only_first, test.only_second), (0, 3));
/// assert!((test.p_value - 0.25).abs() < 1e-12); // 2 · 0.5³
/// ```
#[must_use]
pub fn mcnemar(first: &[bool], second: &[bool]) -> McNemar {
    let only = |wanted: bool| {
        first
            .iter()
            .zip(second)
            .filter(|(first, second)| **first == wanted && **second != wanted)
            .count()
    };
    let (only_first, only_second) = (only(true), only(false));
    let discordant = only_first + only_second;
    let fewer = only_first.min(only_second);
    let p_value = match Binomial::new(0.5, discordant as u64) {
        Ok(split) if discordant > 0 => (2.0 * split.cdf(fewer as u64)).min(1.0),
        _ => 1.0,
    };
    McNemar {
        only_first,
        only_second,
        p_value,
    }
}

/// A difference with what it is worth.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct PairedComparison {
    /// Items that both models answered.
    pub n: usize,
    /// Mean of `second − first`.
    pub delta: f64,
    /// Its standard error, from the differences.
    pub stderr: f64,
    /// Percentile bootstrap interval of the difference at 95 %.
    pub interval: Interval,
    /// Two-sided: McNemar's where all scores are 0 or 1, else the bootstrap's.
    pub p_value: f64,
    /// Which test gave it: `mcnemar` or `bootstrap`.
    pub test: &'static str,
}

/// Two-sided bootstrap p-value and 95 % interval of the mean of differences.
///
/// The p-value is the share of resampled differences, shifted to have mean 0, that are as far from 0 as the observed
/// one; at least `1 / (resamples + 1)`. `None` for no items.
///
/// # Source
/// Efron and Tibshirani 1993, An Introduction to the Bootstrap, §16.4: the distribution under the null hypothesis
#[must_use]
pub fn paired_bootstrap(
    differences: &[f64],
    resamples: usize,
    seed: u64,
) -> Option<(f64, Interval)> {
    if differences.is_empty() || resamples == 0 {
        return None;
    }
    let observed = mean(differences);
    let mut means = resampled(differences, resamples, seed, |picked| {
        picked.iter().copied().sum::<f64>() / picked.len() as f64
    });
    // Sums in another order differ by rounding, which must not decide between equal and smaller.
    let slack = 1e-12 * observed.abs().max(1.0);
    let as_far = means
        .iter()
        .filter(|value| (**value - observed).abs() + slack >= observed.abs())
        .count();
    means.sort_by(f64::total_cmp);
    let at = |share: f64| {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a place in the list"
        )]
        let place = (share * (means.len() - 1) as f64).round() as usize;
        means[place]
    };
    let interval = Interval {
        low: at(0.025),
        high: at(0.975),
    };
    let p_value = (as_far + 1) as f64 / (resamples + 1) as f64;
    Some((p_value.min(1.0), interval))
}

/// Compares scores of two models item by item; `None` for no items or lists of different lengths.
///
/// # Examples
/// ```
/// use flametune_eval::stats::compare_paired;
///
/// let base = [0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0];
/// let tuned = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
/// let result = compare_paired(&base, &tuned, 2000, 0).unwrap();
/// assert_eq!((result.delta, result.test), (0.75, "mcnemar"));
/// assert!((result.p_value - 2.0 * 0.5_f64.powi(6)).abs() < 1e-12);
/// ```
#[must_use]
pub fn compare_paired(
    first: &[f64],
    second: &[f64],
    resamples: usize,
    seed: u64,
) -> Option<PairedComparison> {
    if first.len() != second.len() {
        return None;
    }
    let differences: Vec<f64> = first.iter().zip(second).map(|(a, b)| b - a).collect();
    let (bootstrap_p, interval) = paired_bootstrap(&differences, resamples, seed)?;
    let binary = first
        .iter()
        .chain(second)
        .all(|&score| score == 0.0 || score == 1.0);
    let (p_value, test) = if binary {
        let right = |scores: &[f64]| scores.iter().map(|&score| score == 1.0).collect::<Vec<_>>();
        (mcnemar(&right(first), &right(second)).p_value, "mcnemar")
    } else {
        (bootstrap_p, "bootstrap")
    };
    Some(PairedComparison {
        n: differences.len(),
        delta: mean(&differences),
        stderr: mean_stderr(&differences),
        interval,
        p_value,
        test,
    })
}
