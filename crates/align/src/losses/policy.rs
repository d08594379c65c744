//! The clipped policy loss of PPO.

use burn::tensor::Tensor;

use crate::host::{constant, count, f32_of, numbers};
use crate::metrics::Metrics;

/// The tokens that a policy loss is of: those of all completions of a batch, one after the other.
///
/// # Shapes
/// - all `[tokens]`
#[derive(Debug, Clone)]
pub struct PolicyTokens<'a> {
    /// Log-probabilities under the policy.
    pub logps: Tensor<1>,
    /// Log-probabilities under the policy that sampled the tokens.
    pub old_logps: &'a [f32],
    /// How much better each token was than expected.
    pub advantages: &'a [f32],
}

/// The loss of each token: `max(−A·ρ, −A·clip(ρ, 1 − ε, 1 + ε))` with the ratio
/// `ρ = π / π_old = e^(logp − old)`.
///
/// The loss of an update is the mean over its tokens.
///
/// # Logged parts
/// `policy/clipfrac` (tokens whose clipped term is the larger), `policy/approxkl`
/// (`½·(logp − old)²`), `val/ratio`.
///
/// # Panics
/// When lengths differ.
///
/// # Source
/// - Schulman et al. 2017, PPO, arXiv:1707.06347, eq. (7)
/// - reference: TRL 0.24 `ppo_trainer.py`; golden `fixtures/align/ppo.safetensors`
/// - differs: `policy/approxkl` is a mean over tokens; TRL's counts padding as well
pub fn ppo_policy(tokens: &PolicyTokens<'_>, cliprange: f64) -> (Tensor<1>, Metrics) {
    let device = tokens.logps.device();
    let [len] = tokens.logps.dims();
    assert_eq!(tokens.old_logps.len(), len, "log-probabilities of tokens");
    assert_eq!(tokens.advantages.len(), len, "advantages of tokens");
    let old = constant(tokens.old_logps.to_vec(), &device);
    let costs = constant(tokens.advantages.iter().map(|a| -a).collect(), &device);
    let ratio = (tokens.logps.clone() - old).exp();
    let clipped = ratio.clone().clamp(1.0 - cliprange, 1.0 + cliprange);
    let losses = (ratio * costs.clone()).max_pair(clipped * costs);
    (losses, parts(tokens, cliprange))
}

fn parts(tokens: &PolicyTokens<'_>, cliprange: f64) -> Metrics {
    let mut parts = Metrics::default();
    let (mut clipped, mut kl, mut ratios) = (0, 0.0, 0.0);
    let bounds = (f32_of(1.0 - cliprange), f32_of(1.0 + cliprange));
    let logps = numbers(&tokens.logps);
    for ((logp, old), advantage) in logps.iter().zip(tokens.old_logps).zip(tokens.advantages) {
        let gap = logp - old;
        let ratio = gap.exp();
        clipped += usize::from(-advantage * ratio.clamp(bounds.0, bounds.1) > -advantage * ratio);
        kl += 0.5 * f64::from(gap) * f64::from(gap);
        ratios += f64::from(ratio);
    }
    let len = count(logps.len());
    parts.add("policy/clipfrac", count(clipped), len);
    parts.add("policy/approxkl", kl, len);
    parts.add("val/ratio", ratios, len);
    parts
}
