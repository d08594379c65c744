//! How good a reward model is.

use flametune_data::Collator;
use flametune_peft::AdapterPass;

use super::feed::{batches, pairs};
use super::model::{RewardModel, score_all};
use crate::error::Result;
use crate::host::count;
use crate::preference::AnswerRows;

/// Equal parts of confidences between ½ and 1.
const BINS: usize = 10;

/// The quantile of a 95 % interval.
const Z: f64 = 1.959_964;

/// A reward model on pairs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RewardReport {
    /// Pairs.
    pub pairs: usize,
    /// The share of pairs whose chosen answer scores higher.
    pub accuracy: f64,
    /// Its 95 % interval (Wilson).
    pub interval: (f64, f64),
    /// The mean of `r_c − r_r`.
    pub margin: f64,
    /// Expected calibration error: how far `σ(|r_c − r_r|)`, the confidence, is from the share of right
    /// answers, averaged over ten equal parts of the confidences.
    pub calibration_error: f64,
}

impl RewardReport {
    /// Scores all pairs of `rows`; `model` has no autodiff.
    ///
    /// # Errors
    /// Those of batches and of the forward pass.
    pub fn measure(
        model: &RewardModel,
        rows: &AnswerRows,
        pass: &AdapterPass,
        size: usize,
        collator: &Collator,
    ) -> Result<Self> {
        let mut margins = Vec::new();
        for batch in batches(rows, size, collator)? {
            let scores = score_all(&model.lm, &model.score, &batch.sequences, pass)?;
            let (chosen, rejected) = scores.split_at(batch.margins.len());
            margins.extend(chosen.iter().zip(rejected).map(|(c, r)| c - r));
        }
        Ok(Self::of(&margins))
    }

    /// The report on margins `r_c − r_r`.
    ///
    /// # Source
    /// - Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv:1706.04599, §2
    pub fn of(margins: &[f32]) -> Self {
        let right = margins.iter().filter(|margin| **margin > 0.0).count();
        let sum: f64 = margins.iter().map(|margin| f64::from(*margin)).sum();
        let mut bins = [(0.0, 0.0); BINS];
        for margin in margins {
            let confidence = 1.0 / (1.0 + (-f64::from(margin.abs())).exp());
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a place among ten"
            )]
            let bin = (((confidence - 0.5) * 2.0 * count(BINS)) as usize).min(BINS - 1);
            bins[bin].0 += confidence;
            bins[bin].1 += f64::from(u8::from(*margin > 0.0));
        }
        let gaps = bins
            .iter()
            .map(|(confidence, right)| (confidence - right).abs());
        let pairs = count(margins.len().max(1));
        Self {
            pairs: margins.len(),
            accuracy: count(right) / pairs,
            interval: wilson(right, margins.len()),
            margin: sum / pairs,
            calibration_error: gaps.sum::<f64>() / pairs,
        }
    }
}

/// The share of pairs whose chosen answer is the longer one: what a reward model must beat.
///
/// Answers of equal length count half.
///
/// # Errors
/// When there are no pairs.
pub fn longer_answer_accuracy(rows: &AnswerRows) -> Result<f64> {
    let pairs = pairs(rows)?;
    let right = pairs
        .iter()
        .map(|pair| match pair.chosen.len().cmp(&pair.rejected.len()) {
            std::cmp::Ordering::Greater => 1.0,
            std::cmp::Ordering::Equal => 0.5,
            std::cmp::Ordering::Less => 0.0,
        });
    Ok(right.sum::<f64>() / count(pairs.len().max(1)))
}

/// The 95 % interval of a share.
///
/// # Source
/// - Wilson 1927, Probable Inference, the Law of Succession, and Statistical Inference, JASA 22
fn wilson(right: usize, all: usize) -> (f64, f64) {
    if all == 0 {
        return (0.0, 1.0);
    }
    let (n, p) = (count(all), count(right) / count(all));
    let scale = 1.0 + Z * Z / n;
    let centre = (p + Z * Z / (2.0 * n)) / scale;
    let width = Z / scale * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    (centre - width, centre + width)
}
