//! REINFORCE++: returns of tokens, normalised over the batch, without a critic.

use super::whiten::whiten;
use crate::host::f32_of;

/// The discounted sum of the shaped rewards from each token on, whitened over all tokens of the
/// batch.
///
/// # Shapes
/// - `rewards`: one a token, the score on the last, the KL penalty on each; one list a completion
///
/// # Source
/// - Hu 2025, REINFORCE++, arXiv:2501.03262
pub fn reinforce_plus_plus(rewards: &[Vec<f32>], gamma: f64) -> Vec<Vec<f32>> {
    let returns = rewards.iter().map(|rewards| {
        let mut returns = vec![0.0; rewards.len()];
        let mut next = 0.0;
        for (reward, slot) in rewards.iter().zip(&mut returns).rev() {
            next = f64::from(*reward) + gamma * next;
            *slot = f32_of(next);
        }
        returns
    });
    let returns: Vec<Vec<f32>> = returns.collect();
    let mut flat = returns.concat();
    whiten(&mut flat, false);
    let mut rest = flat.as_slice();
    let lengths = returns.iter().map(Vec::len);
    lengths
        .map(|len| {
            let (own, others) = rest.split_at(len);
            rest = others;
            own.to_vec()
        })
        .collect()
}
