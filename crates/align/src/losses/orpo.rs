//! Odds ratio preference optimization: fine-tuning and preference in one, without a reference.

use burn::tensor::{Tensor, activation};

use super::pair::{PairLogps, PairLosses, SftTerm, reward_parts};
use crate::host::{count, numbers};

/// Log-probabilities are cut here, where the odds of an answer would be infinite.
const CERTAIN: f64 = -1e-6;

/// The loss of each pair: `NLL(chosen) − β·ln σ(ln odds(chosen) − ln odds(rejected))`, with
/// `odds(p) = p / (1 − p)` of `p = eˡ`, `l` the mean log-probability of a token.
///
/// # Shapes
/// - `policy`: `[pairs]`, **means** over the tokens of answers
/// - `sft`: of the whole chosen sequence, prompt included, as the paper's fine-tuning part is
///
/// # Logged parts
/// `rewards/…` and `logps/…` as [`cpo`](super::cpo()), `nll_loss`, `log_odds_ratio` (the log-sigmoid),
/// `log_odds_chosen`.
///
/// # Source
/// - Hong, Lee and Thorne 2024, ORPO, arXiv:2403.07691, eqs. (4), (6) and (7)
/// - reference: TRL 1.16 `orpo_trainer.py::odds_ratio_loss`; golden
///   `fixtures/align/cpo_orpo.safetensors`
pub fn orpo(policy: &PairLogps, sft: &SftTerm, beta: f64) -> PairLosses {
    let log_odds = |logps: &Tensor<1>| logps.clone() - log_one_minus_exp(logps.clone());
    let ratio = log_odds(&policy.chosen) - log_odds(&policy.rejected);
    let preference = activation::log_sigmoid(ratio.clone());
    let nll = sft.losses();
    let rewards = PairLogps {
        chosen: policy.chosen.clone() * beta,
        rejected: policy.rejected.clone() * beta,
    };
    let mut parts = reward_parts(&rewards, policy);
    let pairs = count(policy.pairs());
    let sum = |tensor: &Tensor<1>| numbers(tensor).iter().map(|x| f64::from(*x)).sum::<f64>();
    parts.add("nll_loss", sum(&nll), pairs);
    parts.add("log_odds_ratio", sum(&preference), pairs);
    parts.add("log_odds_chosen", sum(&ratio), pairs);
    PairLosses {
        losses: nll - preference * beta,
        parts,
    }
}

/// `ln(1 − eˣ)` for `x < 0`, as `ln(2t) − ln(1 + t)` with `t = tanh(−x/2)`, which loses no digits near
/// zero.
fn log_one_minus_exp(x: Tensor<1>) -> Tensor<1> {
    let t = (x.clamp_max(CERTAIN) * -0.5).tanh();
    (t.clone() * 2.0).log() - t.log1p()
}
