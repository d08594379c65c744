//! What a fine-tuned model can no longer do.

use super::{Comparison, Verdict};

/// What a candidate lost on tasks it was not tuned for.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Forgetting {
    /// Metrics compared.
    pub metrics: usize,
    /// Mean gain over metrics that are rates; below zero when abilities were lost.
    pub mean_gain: f64,
    /// The task that lost most, its metric, and how much; nothing when none lost.
    pub worst: Option<(String, String, f64)>,
    /// Tasks and metrics that are worse beyond chance.
    pub lost: Vec<(String, String)>,
}

/// Sums up what a comparison says about abilities that should have stayed.
///
/// Perplexities have another scale than rates, so they count among the lost but not in the mean.
#[must_use]
pub fn forgetting(comparison: &Comparison) -> Forgetting {
    let rates: Vec<_> = comparison
        .rows
        .iter()
        .filter(|row| row.interval_is_of_delta)
        .collect();
    let gains: f64 = rates.iter().map(|row| row.gain()).sum();
    let worst = rates
        .iter()
        .min_by(|a, b| a.gain().total_cmp(&b.gain()))
        .filter(|row| row.gain() < 0.0)
        .map(|row| (row.task.clone(), row.key(), row.gain()));
    Forgetting {
        metrics: comparison.rows.len(),
        mean_gain: if rates.is_empty() {
            0.0
        } else {
            gains / rates.len() as f64
        },
        worst,
        lost: comparison
            .rows
            .iter()
            .filter(|row| row.verdict == Verdict::Worse)
            .map(|row| (row.task.clone(), row.key()))
            .collect(),
    }
}
