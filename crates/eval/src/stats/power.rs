//! How small a difference so many items can show.

use std::fmt;

use super::interval::quantile;

/// Two-sided error rate that hints assume.
const ALPHA: f64 = 0.05;
/// Chance of seeing a true difference that hints assume.
const POWER: f64 = 0.8;

/// What a number of items can and cannot show.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct PowerHint {
    /// Items at hand.
    pub n: usize,
    /// The smallest true difference that is seen in four of five such experiments at the 5 % level.
    pub detectable: f64,
    /// The difference that is asked about.
    pub wanted: f64,
    /// Items that showing it takes.
    pub needed: usize,
}

/// What `n` pairs with this standard deviation of their differences can show.
///
/// `detectable = (z₀.₉₇₅ + z₀.₈)·σ/√n` and `needed = ((z₀.₉₇₅ + z₀.₈)·σ/wanted)²`.
/// `None` for no items, a spread that is no number, or a difference that is not above 0.
///
/// # Source
/// Miller 2024, Adding Error Bars to Evals, arXiv:2411.00640, §5
///
/// # Examples
/// ```
/// use flametune_eval::stats::power_hint;
///
/// // A third of the answers differ, and 100 items: two points are far out of sight.
/// let hint = power_hint(100, 0.57, 0.02).unwrap();
/// assert_eq!(hint.to_string(), "n = 100 is too small to see 2.0 points: it shows 16.0, and 2.0 take n = 6376");
/// ```
#[must_use]
pub fn power_hint(n: usize, sigma: f64, wanted: f64) -> Option<PowerHint> {
    let usable = n > 0 && sigma.is_finite() && sigma >= 0.0 && wanted > 0.0;
    if !usable {
        return None;
    }
    let reach = (quantile(1.0 - ALPHA / 2.0) + quantile(POWER)) * sigma;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float too large for an integer becomes the largest"
    )]
    let needed = (reach / wanted).powi(2).ceil() as usize;
    Some(PowerHint {
        n,
        detectable: reach / (n as f64).sqrt(),
        wanted,
        needed,
    })
}

impl PowerHint {
    /// Whether the items at hand are enough for the difference asked about.
    #[must_use]
    pub fn is_enough(&self) -> bool {
        self.n >= self.needed
    }
}

impl fmt::Display for PowerHint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (n, wanted, detectable) = (self.n, self.wanted * 100.0, self.detectable * 100.0);
        if self.is_enough() {
            write!(
                f,
                "n = {n} can show {wanted:.1} points (down to {detectable:.1})"
            )
        } else {
            write!(
                f,
                "n = {n} is too small to see {wanted:.1} points: it shows {detectable:.1}, and {wanted:.1} take n = {}",
                self.needed
            )
        }
    }
}
