//! The clipped value loss of PPO.

use burn::tensor::Tensor;

use crate::host::{constant, count, numbers};
use crate::metrics::Metrics;

/// The tokens that a value loss is of.
///
/// # Shapes
/// - all `[tokens]`
#[derive(Debug, Clone)]
pub struct ValueTokens<'a> {
    /// Values of the state before each token.
    pub values: Tensor<1>,
    /// The values when the tokens were sampled.
    pub old_values: &'a [f32],
    /// What the states turned out to be worth.
    pub returns: &'a [f32],
}

/// The loss of each token: `½·max((v − R)², (clip(v, v_old − ε, v_old + ε) − R)²)`.
///
/// # Logged parts
/// `val/clipfrac` (tokens whose clipped term is the larger), `val/error`: `½·(v − R)²`.
///
/// # Panics
/// When lengths differ.
///
/// # Source
/// - Schulman et al. 2017, PPO, arXiv:1707.06347, in the form of the authors' implementation
/// - reference: TRL 0.24 `ppo_trainer.py`; golden `fixtures/align/ppo.safetensors`
pub fn ppo_value(tokens: &ValueTokens<'_>, cliprange_value: f64) -> (Tensor<1>, Metrics) {
    let device = tokens.values.device();
    let [len] = tokens.values.dims();
    assert_eq!(tokens.old_values.len(), len, "old values of tokens");
    assert_eq!(tokens.returns.len(), len, "returns of tokens");
    let old = constant(tokens.old_values.to_vec(), &device);
    let returns = constant(tokens.returns.to_vec(), &device);
    let step = (tokens.values.clone() - old.clone()).clamp(-cliprange_value, cliprange_value);
    let square = |values: Tensor<1>| {
        let error = values - returns.clone();
        error.clone() * error
    };
    let free = square(tokens.values.clone());
    let clipped = square(old + step);
    let mut parts = Metrics::default();
    let (a, b) = (numbers(&free), numbers(&clipped));
    let larger = a.iter().zip(&b).filter(|(free, clipped)| clipped > free);
    parts.add("val/clipfrac", count(larger.count()), count(len));
    parts.extend("val/error", a.iter().map(|x| 0.5 * f64::from(*x)));
    (free.max_pair(clipped) * 0.5, parts)
}
