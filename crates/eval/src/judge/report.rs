//! How far a judge can be trusted.

use serde::Serialize;

use super::length::correlation;
use super::pairwise::PairVerdict;
use crate::error::Error;
use crate::stats::{Interval, Outcome, cohen_kappa, wilson_interval};

/// An item without a verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The item.
    pub id: String,
    /// Why.
    pub reason: String,
}

impl Failure {
    pub(super) fn new(id: &str, error: &Error) -> Self {
        Self {
            id: id.to_owned(),
            reason: error.to_string(),
        }
    }

    pub(super) fn not_asked(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            reason: "not asked, since the judge could not be reached".to_owned(),
        }
    }
}

/// How far position and length decided.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BiasReport {
    /// Share of pairs with the same winner in both orders.
    pub consistency: Option<f64>,
    /// Of single verdicts that are no tie, the share for the answer shown first; ½ without bias.
    pub first_position: Option<f64>,
    /// Its 95 % interval.
    pub first_position_interval: Option<Interval>,
    /// Correlation of winning and being longer, over pairs.
    pub length_correlation: Option<f64>,
    /// Of decided pairs with answers of different lengths, the share won by the longer.
    pub longer_wins: Option<f64>,
}

impl BiasReport {
    /// From verdicts, the second model's scores and how much longer its answers are.
    pub(super) fn new(verdicts: &[PairVerdict], scores: &[f64], differences: &[f64]) -> Self {
        let consistent = verdicts
            .iter()
            .filter(|verdict| verdict.in_order == verdict.swapped)
            .count();
        let first_shown = verdicts
            .iter()
            .flat_map(|verdict| {
                // In order the first model is shown first, swapped the second.
                [
                    (verdict.in_order, Outcome::First),
                    (verdict.swapped, Outcome::Second),
                ]
            })
            .filter(|(outcome, _)| *outcome != Outcome::Tie);
        let (mut first, mut decided) = (0, 0);
        for (outcome, shown_first) in first_shown {
            decided += 1;
            first += usize::from(outcome == shown_first);
        }
        let rate = |part: usize, whole: usize| (whole > 0).then(|| part as f64 / whole as f64);
        let unequal: Vec<bool> = scores
            .iter()
            .zip(differences)
            .filter(|(score, difference)| **score != 0.5 && **difference != 0.0)
            .map(|(score, difference)| (*score == 1.0) == (*difference > 0.0))
            .collect();
        Self {
            consistency: rate(consistent, verdicts.len()),
            first_position: rate(first, decided),
            first_position_interval: (decided > 0).then(|| wilson_interval(first, decided, 0.95)),
            length_correlation: correlation(scores, differences),
            longer_wins: rate(
                unequal.iter().filter(|longer| **longer).count(),
                unequal.len(),
            ),
        }
    }
}

/// Agreement of a judge with people.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LabelAgreement {
    /// Pairs with a label.
    pub n: usize,
    /// Share of pairs on which both say the same.
    pub accuracy: f64,
    /// Its 95 % interval.
    pub interval: Interval,
    /// Cohen's κ; nothing where one side always says the same.
    pub kappa: Option<f64>,
}

impl LabelAgreement {
    /// From pairs of label and verdict; `None` of none.
    pub(super) fn new(pairs: impl Iterator<Item = (Outcome, Outcome)>) -> Option<Self> {
        let code = |outcome: Outcome| match outcome {
            Outcome::First => 0,
            Outcome::Second => 1,
            Outcome::Tie => 2,
        };
        let (labels, verdicts): (Vec<i64>, Vec<i64>) = pairs
            .map(|(label, verdict)| (code(label), code(verdict)))
            .unzip();
        let agreed = labels.iter().zip(&verdicts).filter(|(a, b)| a == b).count();
        (!labels.is_empty()).then(|| Self {
            n: labels.len(),
            accuracy: agreed as f64 / labels.len() as f64,
            interval: wilson_interval(agreed, labels.len(), 0.95),
            kappa: cohen_kappa(&labels, &verdicts),
        })
    }
}
