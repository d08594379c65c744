//! Advantages of completions among others of the same prompt.

use serde::{Deserialize, Serialize};

use crate::host::{count, f32_of};

/// Keeps advantages of groups without variance finite.
const EPSILON: f64 = 1e-4;

/// What rewards are divided by, by TRL's name (`scale_rewards`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleRewards {
    /// The standard deviation of the group: GRPO.
    #[default]
    Group,
    /// That of all rewards.
    Batch,
    /// Nothing: Dr. GRPO.
    None,
}

/// `(r − mean of the group) / (std + 1e-4)`, with the unbiased standard deviation.
///
/// # Shapes
/// - `rewards`: groups of `group` completions, one after the other
///
/// # Panics
/// When the rewards are no whole number of groups.
///
/// # Source
/// - Shao et al. 2024, DeepSeekMath, arXiv:2402.03300, §4.1.2
/// - Liu et al. 2025, Understanding R1-Zero-Like Training, arXiv:2503.20783: without scale
/// - golden `fixtures/align/group.safetensors`
pub fn group_advantages(rewards: &[f32], group: usize, scale: ScaleRewards) -> Vec<f32> {
    assert!(rewards.len().is_multiple_of(group.max(1)), "whole groups");
    let overall = deviation(rewards);
    let each = rewards.chunks(group.max(1)).flat_map(|rewards| {
        let mean = mean(rewards);
        let scale = match scale {
            ScaleRewards::Group => deviation(rewards) + EPSILON,
            ScaleRewards::Batch => overall + EPSILON,
            ScaleRewards::None => 1.0,
        };
        let advantage = move |r: &f32| f32_of((f64::from(*r) - mean) / scale);
        rewards.iter().map(advantage)
    });
    each.collect()
}

/// The groups whose rewards differ: others teach nothing.
///
/// # Source
/// - Yu et al. 2025, DAPO, arXiv:2503.14476, §3.2: dynamic sampling
pub fn informative_groups(rewards: &[f32], group: usize) -> Vec<usize> {
    let groups = rewards.chunks(group.max(1)).enumerate();
    let differ = |rewards: &[f32]| rewards.iter().any(|r| *r != rewards[0]);
    groups
        .filter(|(_, rewards)| differ(rewards))
        .map(|(index, _)| index)
        .collect()
}

pub(super) fn mean(values: &[f32]) -> f64 {
    let sum: f64 = values.iter().map(|x| f64::from(*x)).sum();
    sum / count(values.len().max(1))
}

/// The unbiased standard deviation; 0 of one value.
pub(super) fn deviation(values: &[f32]) -> f64 {
    let mean = mean(values);
    let squares = values.iter().map(|x| (f64::from(*x) - mean).powi(2));
    let freedom = count(values.len().saturating_sub(1).max(1));
    (squares.sum::<f64>() / freedom).sqrt()
}
