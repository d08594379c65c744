//! What the losses of pairs are computed from.

use burn::tensor::Tensor;

use crate::host::{count, numbers};
use crate::metrics::Metrics;

/// Log-probabilities of the answers of pairs.
///
/// # Shapes
/// - both `[pairs]`; sums over the tokens of an answer, or means where a loss says so
#[derive(Debug, Clone)]
pub struct PairLogps {
    /// Of the preferred answers.
    pub chosen: Tensor<1>,
    /// Of the others.
    pub rejected: Tensor<1>,
}

impl PairLogps {
    /// The two halves of `[2·pairs]`, chosen answers first.
    ///
    /// # Panics
    /// When the number is odd.
    #[must_use]
    pub fn halves(logps: Tensor<1>) -> Self {
        let [rows] = logps.dims();
        assert!(rows.is_multiple_of(2), "{rows} log-probabilities of pairs");
        Self {
            chosen: logps.clone().narrow(0, 0, rows / 2),
            rejected: logps.narrow(0, rows / 2, rows / 2),
        }
    }

    /// `self − other`, the log-ratios to a reference.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        Self {
            chosen: self.chosen.clone() - other.chosen.clone(),
            rejected: self.rejected.clone() - other.rejected.clone(),
        }
    }

    /// `chosen − rejected`.
    #[must_use]
    pub fn margin(&self) -> Tensor<1> {
        self.chosen.clone() - self.rejected.clone()
    }

    /// The number of pairs.
    pub fn pairs(&self) -> usize {
        self.chosen.dims()[0]
    }
}

/// Supervised fine-tuning on the chosen answers, as a part of a loss of pairs.
///
/// The mean negative log-likelihood of a token over the whole optimizer step, however the pairs
/// are spread over micro-batches: each pair carries its tokens' share, times `pairs / tokens` of the
/// step.
#[derive(Debug, Clone)]
pub struct SftTerm {
    /// The negative log-likelihood of each chosen answer, summed over its tokens, `[pairs]`.
    pub nll: Tensor<1>,
    /// Pairs of the optimizer step, divided by the tokens of `nll` in it.
    pub pairs_per_token: f64,
}

impl SftTerm {
    /// The share of each pair, whose mean over the step is the mean over tokens.
    #[must_use]
    pub fn losses(&self) -> Tensor<1> {
        self.nll.clone() * self.pairs_per_token
    }
}

/// What a loss of pairs returns.
#[derive(Debug, Clone)]
pub struct PairLosses {
    /// The loss of each pair, `[pairs]`; the loss of an optimizer step is the mean over its pairs.
    pub losses: Tensor<1>,
    /// Logged parts.
    pub parts: Metrics,
}

/// Rewards, their accuracy and margins, and log-probabilities, under TRL's names.
pub(super) fn reward_parts(rewards: &PairLogps, logps: &PairLogps) -> Metrics {
    let mut parts = Metrics::default();
    let (chosen, rejected) = (numbers(&rewards.chosen), numbers(&rewards.rejected));
    let pairs = count(chosen.len());
    let sum = |values: &[f32]| values.iter().map(|x| f64::from(*x)).sum::<f64>();
    let right = chosen.iter().zip(&rejected).filter(|(c, r)| c > r).count();
    parts.add("rewards/chosen", sum(&chosen), pairs);
    parts.add("rewards/rejected", sum(&rejected), pairs);
    parts.add("rewards/accuracies", count(right), pairs);
    parts.add("rewards/margins", sum(&chosen) - sum(&rejected), pairs);
    parts.add("logps/chosen", sum(&numbers(&logps.chosen)), pairs);
    parts.add("logps/rejected", sum(&numbers(&logps.rejected)), pairs);
    parts
}
