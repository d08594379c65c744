//! Reward models: the Bradley-Terry likelihood of which answer is better.

use burn::tensor::activation;
use serde::{Deserialize, Serialize};

use super::check::not_negative;
use super::pair::{PairLogps, PairLosses};
use crate::error::Result;
use crate::host::{constant, count, numbers};
use crate::metrics::Metrics;

/// The options of [`bradley_terry`].
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RewardLossOptions {
    /// Weight of `(r_c + r_r)²`, which keeps scores near zero; 0 for none.
    pub center_rewards_coefficient: f64,
}

impl RewardLossOptions {
    /// Checks every number.
    ///
    /// # Errors
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) naming the field.
    pub fn validate(&self) -> Result<()> {
        let coefficient = self.center_rewards_coefficient;
        not_negative("center_rewards_coefficient", coefficient)
    }
}

/// The loss of each pair: `−ln σ(r_c − r_r − margin) + c·(r_c + r_r)²`.
///
/// # Shapes
/// - `scores`: `[pairs]`; `margins`: one a pair, 0 where the data has none
///
/// # Logged parts
/// `accuracy`, `margin`, `mean_reward`.
///
/// # Panics
/// When there is another number of margins than of pairs.
///
/// # Source
/// - Ouyang et al. 2022, InstructGPT, arXiv:2203.02155, eq. (1)
/// - margins: Touvron et al. 2023, Llama 2, arXiv:2307.09288, eq. (2)
/// - centring: Eisenstein et al. 2023, Helping or Herding?, arXiv:2312.09244
/// - reference: TRL 1.16 `reward_trainer.py::compute_loss`; golden
///   `fixtures/align/reward.safetensors`
pub fn bradley_terry(
    scores: &PairLogps,
    margins: &[f32],
    options: &RewardLossOptions,
) -> PairLosses {
    let pairs = scores.pairs();
    assert_eq!(margins.len(), pairs, "margins of pairs");
    let mut gap = scores.margin();
    if margins.iter().any(|margin| *margin != 0.0) {
        gap = gap - constant(margins.to_vec(), &scores.chosen.device());
    }
    let mut losses = activation::log_sigmoid(gap).neg();
    if options.center_rewards_coefficient > 0.0 {
        let sum = scores.chosen.clone() + scores.rejected.clone();
        losses = losses + sum.clone() * sum * options.center_rewards_coefficient;
    }
    let (chosen, rejected) = (numbers(&scores.chosen), numbers(&scores.rejected));
    let mut parts = Metrics::default();
    let right = chosen.iter().zip(&rejected).filter(|(c, r)| c > r).count();
    parts.add("accuracy", count(right), count(pairs));
    let gaps = chosen.iter().zip(&rejected);
    parts.extend("margin", gaps.map(|(c, r)| f64::from(*c) - f64::from(*r)));
    let all = chosen.iter().chain(&rejected);
    parts.extend("mean_reward", all.map(|x| f64::from(*x)));
    PairLosses { losses, parts }
}
