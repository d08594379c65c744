//! The policy loss of RLOO: whole completions as single actions.

use burn::tensor::Tensor;

use super::group::{GroupBatch, clip_parts, sums_by_completion};
use crate::host::{constant, numbers};
use crate::metrics::Metrics;

/// The loss of each completion: `−min(ρ·A, clip(ρ, 1 − ε_low, 1 + ε_high)·A)` with the ratio
/// `ρ = e^(Σ logp − Σ old)` of the whole completion.
///
/// # Shapes
/// - returns `[completions]`; the loss of an update is the mean
///
/// # Logged parts
/// `clip_ratio/low_mean`, `clip_ratio/high_mean`, `clip_ratio/region_mean`.
///
/// # Panics
/// When lengths differ.
///
/// # Source
/// - Ahmadian et al. 2024, Back to Basics: Revisiting REINFORCE-Style Optimization, arXiv:2402.14740
/// - reference: TRL 1.16 `rloo_trainer.py::_compute_loss`; golden `fixtures/align/group.safetensors`
pub fn rloo_policy(
    batch: &GroupBatch<'_>,
    epsilon_low: f64,
    epsilon_high: f64,
) -> (Tensor<1>, Metrics) {
    batch.check();
    let device = batch.logps.device();
    let old = constant(batch.old_logps.to_vec(), &device);
    let gaps = sums_by_completion(&(batch.logps.clone() - old), batch.lengths, false);
    let ratio = gaps.exp();
    let advantages = constant(batch.advantages.to_vec(), &device);
    let parts = clip_parts(
        &numbers(&ratio),
        batch.advantages.iter().copied(),
        (epsilon_low, epsilon_high),
    );
    let clipped = ratio.clone().clamp(1.0 - epsilon_low, 1.0 + epsilon_high);
    let losses = (ratio * advantages.clone())
        .min_pair(clipped * advantages)
        .neg();
    (losses, parts)
}
