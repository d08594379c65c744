//! Perplexities of texts, and what they are counted in.

use crate::python;

/// `exp(−mean)` of log-likelihoods, one per item; NaN of none.
#[must_use]
pub fn perplexity(loglikelihoods: &[f64]) -> f64 {
    (-(sum(loglikelihoods.iter().copied()) / loglikelihoods.len() as f64)).exp()
}

/// `exp(−Σ log-likelihood / Σ weight)`: per word or per byte, as the weights count.
#[must_use]
pub fn weighted_perplexity(items: &[(f64, f64)]) -> f64 {
    (-weighted_mean(items)).exp()
}

/// `−Σ log-likelihood / Σ bytes / ln 2`.
///
/// # Examples
/// ```
/// use flametune_eval::metrics::bits_per_byte;
///
/// // A fair coin for every byte.
/// assert_eq!(bits_per_byte(&[(-8.0 * 2_f64.ln(), 8.0)]), 1.0);
/// ```
#[must_use]
pub fn bits_per_byte(items: &[(f64, f64)]) -> f64 {
    -weighted_mean(items) / std::f64::consts::LN_2
}

/// Pieces that `re.split(r"\s+", text)` makes: one more than there are runs of white space.
#[must_use]
pub fn count_words(text: &str) -> usize {
    let mut words = 1;
    let mut inside = false;
    for character in text.chars() {
        let space = python::is_space(character);
        if space && !inside {
            words += 1;
        }
        inside = space;
    }
    words
}

fn weighted_mean(items: &[(f64, f64)]) -> f64 {
    sum(items.iter().map(|item| item.0)) / sum(items.iter().map(|item| item.1))
}

fn sum(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |sum, value| sum + value)
}
