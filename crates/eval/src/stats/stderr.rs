//! Standard errors as the reference harness reports them.

use rayon::prelude::*;

use crate::python::PythonRandom;

/// Resamples that share one generator in the reference's bootstrap.
const CHUNK: usize = 1000;

/// The mean, summed from left to right as Python sums; NaN of none.
#[must_use]
pub fn mean(values: &[f64]) -> f64 {
    sum(values.iter().copied()) / values.len() as f64
}

/// `Σ value·weight / Σ weight`; NaN of none.
#[must_use]
pub fn weighted_mean(values: &[f64], weights: &[f64]) -> f64 {
    sum(values
        .iter()
        .zip(weights)
        .map(|(value, weight)| value * weight))
        / sum(weights.iter().copied())
}

/// `√(Σ (x − mean)² / (n − 1))`; NaN of fewer than two.
#[must_use]
pub fn sample_stddev(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return f64::NAN;
    }
    let mean = mean(values);
    let squares = sum(values.iter().map(|value| (value - mean) * (value - mean)));
    (squares / (values.len() - 1) as f64).sqrt()
}

/// Standard error of a mean: `sample_stddev / √n`.
///
/// # Examples
/// ```
/// use flametune_eval::stats::mean_stderr;
///
/// assert_eq!(mean_stderr(&[1.0, 0.0, 1.0, 0.0]), (1.0_f64 / 3.0).sqrt() / 2.0);
/// ```
#[must_use]
pub fn mean_stderr(values: &[f64]) -> f64 {
    sample_stddev(values) / (values.len() as f64).sqrt()
}

/// Standard deviation of a statistic over `iterations` resamples with replacement.
///
/// Draw for draw lm-eval's `bootstrap_stderr`: chunks of at most 1000 resamples, chunk `i` drawn by
/// `random.Random(i).choices`; what is left over after whole chunks is not drawn.
#[must_use]
pub fn bootstrap_stderr<T: Sync>(
    items: &[T],
    iterations: usize,
    statistic: impl Fn(&[&T]) -> f64 + Sync,
) -> f64 {
    if items.is_empty() || iterations == 0 {
        return f64::NAN;
    }
    let chunk = CHUNK.min(iterations);
    let chunks: Vec<u64> = (0..(iterations / chunk) as u64).collect();
    let resampled: Vec<f64> = chunks
        .par_iter()
        .flat_map_iter(|&seed| {
            let mut random = PythonRandom::new(seed);
            let mut picked: Vec<&T> = Vec::with_capacity(items.len());
            (0..chunk)
                .map(|_| {
                    picked.clear();
                    picked.extend((0..items.len()).map(|_| &items[random.choice(items.len())]));
                    statistic(&picked)
                })
                .collect::<Vec<_>>()
        })
        .collect();
    sample_stddev(&resampled)
}

/// Standard error of a mean over groups weighted by their sizes.
///
/// `√(Σ (nᵢ − 1)·seᵢ²·nᵢ / (Σ nᵢ − k) / Σ nᵢ)`
#[must_use]
pub fn pooled_sample_stderr(stderrs: &[f64], sizes: &[usize]) -> f64 {
    let total: usize = sizes.iter().sum();
    let pooled = sum(stderrs
        .iter()
        .zip(sizes)
        .map(|(stderr, &size)| size.saturating_sub(1) as f64 * stderr * stderr * size as f64))
        / total.saturating_sub(sizes.len()) as f64;
    (pooled / total as f64).sqrt()
}

/// Standard error of a mean over groups that count the same: `√(Σ seᵢ²) / k`.
#[must_use]
pub fn unweighted_mean_stderr(stderrs: &[f64]) -> f64 {
    sum(stderrs.iter().map(|stderr| stderr * stderr)).sqrt() / stderrs.len() as f64
}

fn sum(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |sum, value| sum + value)
}
