//! Whether raters agree more than chance would have them.

use std::collections::BTreeMap;

/// How far apart two ratings are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distance {
    /// Equal or not.
    Nominal,
    /// The squared difference of numbers.
    Interval,
}

impl Distance {
    fn between(self, a: f64, b: f64) -> f64 {
        match self {
            Self::Nominal => f64::from(u8::from(a != b)),
            Self::Interval => (a - b).powi(2),
        }
    }
}

/// Cohen's κ of two raters' labels of the same items: `(agreement − chance) / (1 − chance)`.
///
/// `None` for no items, lists of different lengths, or raters who always give one and the same label.
///
/// # Source
/// Cohen 1960, A coefficient of agreement for nominal scales, EPM 20(1)
///
/// # Examples
/// ```
/// use flametune_eval::stats::cohen_kappa;
///
/// // 35 of 50 agree; chance would make it 25.
/// let first: Vec<i64> = [vec![1; 25], vec![0; 25]].concat();
/// let second: Vec<i64> = [vec![1; 20], vec![0; 5], vec![1; 10], vec![0; 15]].concat();
/// assert!((cohen_kappa(&first, &second).unwrap() - 0.4).abs() < 1e-12);
/// ```
#[must_use]
pub fn cohen_kappa(first: &[i64], second: &[i64]) -> Option<f64> {
    if first.is_empty() || first.len() != second.len() {
        return None;
    }
    let n = first.len() as f64;
    let mut labels: BTreeMap<i64, (f64, f64)> = BTreeMap::new();
    for label in first {
        labels.entry(*label).or_default().0 += 1.0;
    }
    for label in second {
        labels.entry(*label).or_default().1 += 1.0;
    }
    let agreed = first.iter().zip(second).filter(|(a, b)| a == b).count() as f64 / n;
    let chance: f64 = labels.values().map(|(a, b)| a * b).sum::<f64>() / (n * n);
    (chance < 1.0).then(|| (agreed - chance) / (1.0 - chance))
}

/// Krippendorff's α of any number of raters, of whom some may have rated some items only.
///
/// `ratings[item]` holds the ratings of one item; items with fewer than two take no part.
/// `1 − observed disagreement / expected disagreement`; `None` when no two ratings of one item exist, or all
/// ratings are the same, so that there is nothing to disagree about.
///
/// # Source
/// Krippendorff 2011, Computing Krippendorff's Alpha-Reliability, eqs. for nominal and interval data
///
/// # Examples
/// ```
/// use flametune_eval::stats::{Distance, krippendorff_alpha};
///
/// let ratings = [vec![1.0, 1.0], vec![2.0, 2.0], vec![1.0, 2.0], vec![2.0, 2.0]];
/// let alpha = krippendorff_alpha(&ratings, Distance::Nominal).unwrap();
/// assert!((alpha - (1.0 - 7.0 * 2.0 / 30.0)).abs() < 1e-12);
/// ```
#[must_use]
pub fn krippendorff_alpha(ratings: &[Vec<f64>], distance: Distance) -> Option<f64> {
    let pairable: Vec<&Vec<f64>> = ratings.iter().filter(|item| item.len() >= 2).collect();
    let all: Vec<f64> = pairable
        .iter()
        .flat_map(|item| item.iter().copied())
        .collect();
    let n = all.len() as f64;
    if all.is_empty() {
        return None;
    }
    let disagreement = |values: &[f64]| -> f64 {
        let mut sum = 0.0;
        for (at, &a) in values.iter().enumerate() {
            for &b in &values[at + 1..] {
                sum += 2.0 * distance.between(a, b);
            }
        }
        sum
    };
    let observed: f64 = pairable
        .iter()
        .map(|item| disagreement(item) / (item.len() - 1) as f64)
        .sum::<f64>()
        / n;
    let expected = disagreement(&all) / (n * (n - 1.0));
    (expected > 0.0).then(|| 1.0 - observed / expected)
}
