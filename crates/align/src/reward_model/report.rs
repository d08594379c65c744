//! How good a reward model is.

use flametune_data::Collator;
use flametune_peft::AdapterPass;

use super::batch::{RewardBatch, RewardTarget};
use super::model::{RewardModel, score_all};
use crate::error::{Error, Result};
use crate::host::count;
use crate::preference::{AnswerRows, Answers};

/// Equal parts of confidences between ½ and 1.
const BINS: usize = 10;

/// The quantile of a 95 % interval.
const Z: f64 = 1.959_964;

/// A reward model on pairs, or on steps.
///
/// The margin of a pair is `r_c − r_r`, that of a step its score, or the negative of it where the step is wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RewardReport {
    /// Pairs, or steps.
    pub items: usize,
    /// The share with a positive margin: pairs whose chosen answer scores higher, steps that are told right.
    pub accuracy: f64,
    /// Its 95 % interval (Wilson).
    pub interval: (f64, f64),
    /// The mean margin.
    pub margin: f64,
    /// Expected calibration error: how far `σ(|margin|)`, the confidence, is from the share of right
    /// answers, averaged over ten equal parts of the confidences.
    pub calibration_error: f64,
}

impl RewardReport {
    /// Scores all pairs or steps of `rows`; `model` has no autodiff.
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
        for batch in RewardBatch::all(rows, size, collator)? {
            let (sequences, places) = (&batch.sequences, &batch.places);
            let scores = score_all(&model.lm, &model.score, sequences, places, pass)?;
            match &batch.target {
                RewardTarget::Margins(pairs) => {
                    let (chosen, rejected) = scores.split_at(pairs.len());
                    margins.extend(chosen.iter().zip(rejected).map(|(c, r)| c - r));
                }
                RewardTarget::Steps(labels) => {
                    let each = scores.iter().zip(labels);
                    margins.extend(each.map(|(score, right)| if *right { *score } else { -score }));
                }
            }
        }
        Ok(Self::of(&margins))
    }

    /// The report on margins.
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
            items: margins.len(),
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
/// [`Error::Empty`] for rows that are no pairs.
pub fn longer_answer_accuracy(rows: &AnswerRows) -> Result<f64> {
    let Answers::Pairs(pairs) = &rows.answers else {
        return Err(Error::Empty {
            what: "pair of answers",
        });
    };
    let right = pairs
        .iter()
        .map(|pair| match pair.chosen.len().cmp(&pair.rejected.len()) {
            std::cmp::Ordering::Greater => 1.0,
            std::cmp::Ordering::Equal => 0.5,
            std::cmp::Ordering::Less => 0.0,
        });
    Ok(right.sum::<f64>() / count(pairs.len().max(1)))
}

/// The share of steps that have the commoner of both labels: what a process reward model must beat.
///
/// # Errors
/// [`Error::Empty`] for rows that are no answers in steps.
pub fn commonest_label_accuracy(rows: &AnswerRows) -> Result<f64> {
    let Answers::Steps(answers) = &rows.answers else {
        return Err(Error::Empty {
            what: "answer in steps",
        });
    };
    let labels = answers.iter().flat_map(|answer| &answer.labels);
    let (all, right) = labels.fold((0, 0), |(all, right), label| {
        (all + 1, right + usize::from(*label))
    });
    Ok(count(right.max(all - right)) / count(all.max(1)))
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
