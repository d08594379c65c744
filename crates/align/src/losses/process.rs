//! Process rewards: whether each step of a solution is right.

use burn::tensor::{Tensor, activation};

use super::pair::PairLosses;
use crate::host::{constant, count, numbers};
use crate::metrics::Metrics;

/// The loss of each step: `−ln σ(s)` of right steps, `−ln σ(−s)` of wrong ones, `s` the score at the
/// step's last token.
///
/// # Shapes
/// - `scores`: `[steps]`; `labels`: one a step
///
/// # Logged parts
/// `accuracy`: the share of steps whose score has the sign of its label.
///
/// # Panics
/// When there is another number of labels than of steps.
///
/// # Source
/// - Uesato et al. 2022, Solving math word problems with process- and outcome-based feedback,
///   arXiv:2211.14275, §2.3
/// - Lightman et al. 2023, Let's Verify Step by Step, arXiv:2305.20050, §2.6
/// - differs: one score in place of two logits, whose difference it is
pub fn process_reward(scores: &Tensor<1>, labels: &[bool]) -> PairLosses {
    assert_eq!(scores.dims(), [labels.len()], "labels of steps");
    let sign = |right: &bool| if *right { 1.0 } else { -1.0 };
    let signs = constant(labels.iter().map(sign).collect(), &scores.device());
    let losses = activation::log_sigmoid(scores.clone() * signs).neg();
    let found = numbers(scores);
    let right = found.iter().zip(labels).filter(|(s, l)| (**s > 0.0) == **l);
    let mut parts = Metrics::default();
    parts.add("accuracy", count(right.count()), count(labels.len()));
    PairLosses { losses, parts }
}
