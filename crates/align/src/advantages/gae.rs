//! Generalized advantage estimation.

/// Advantages and returns of the tokens of a completion.
#[derive(Debug, Clone, PartialEq)]
pub struct Gae {
    /// How much better each token was than the value before it.
    pub advantages: Vec<f32>,
    /// `advantages + values`: what the value is trained towards.
    pub returns: Vec<f32>,
}

/// `A_t = δ_t + γ·λ·A_{t+1}` with `δ_t = r_t + γ·v_{t+1} − v_t`; after the last token, `v` and `A` are 0.
///
/// With `λ = 1`, advantages are discounted returns minus values.
///
/// # Shapes
/// - `rewards`, `values`: one a token of a completion; `values[t]` is that of the state before it
///
/// # Panics
/// When lengths differ.
///
/// # Source
/// - Schulman et al. 2015, High-Dimensional Continuous Control Using Generalized Advantage
///   Estimation, arXiv:1506.02438, eqs. (11) to (16)
/// - golden `fixtures/align/ppo.safetensors`
///
/// # Examples
/// ```
/// use flametune_align::advantages::gae;
///
/// let found = gae(&[0.0, 1.0], &[0.5, 0.25], 1.0, 1.0);
/// assert_eq!(found.advantages, [0.5, 0.75]);
/// assert_eq!(found.returns, [1.0, 1.0]);
/// ```
pub fn gae(rewards: &[f32], values: &[f32], gamma: f64, lambda: f64) -> Gae {
    assert_eq!(rewards.len(), values.len(), "values of tokens");
    let mut advantages = vec![0.0; rewards.len()];
    let (mut next_value, mut next) = (0.0, 0.0);
    for (t, advantage) in advantages.iter_mut().enumerate().rev() {
        let value = f64::from(values[t]);
        let delta = f64::from(rewards[t]) + gamma * next_value - value;
        next = delta + gamma * lambda * next;
        next_value = value;
        *advantage = crate::host::f32_of(next);
    }
    let returns = advantages.iter().zip(values).map(|(a, v)| a + v).collect();
    Gae {
        advantages,
        returns,
    }
}
