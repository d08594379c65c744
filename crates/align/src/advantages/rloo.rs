//! Leave-one-out baselines.

use super::group::{deviation, mean};
use crate::host::{count, f32_of};

/// Keeps normalised advantages finite.
const EPSILON: f64 = 1e-4;

/// `r − mean of the other rewards of the group`; with `normalize`, of zero mean and unit deviation over
/// all completions.
///
/// # Shapes
/// - `rewards`: groups of `group` completions, one after the other; `group` is at least 2
///
/// # Panics
/// When the rewards are no whole number of groups, or groups have one completion.
///
/// # Source
/// - Ahmadian et al. 2024, Back to Basics, arXiv:2402.14740; Kool et al. 2019, Buy 4
///   REINFORCE Samples, Get a Baseline for Free!
/// - golden `fixtures/align/group.safetensors`
pub fn rloo_advantages(rewards: &[f32], group: usize, normalize: bool) -> Vec<f32> {
    assert!(group >= 2, "groups of {group}");
    assert!(rewards.len().is_multiple_of(group), "whole groups");
    let others = count(group - 1);
    let advantages = rewards.chunks(group).flat_map(|rewards| {
        let sum: f64 = rewards.iter().map(|r| f64::from(*r)).sum();
        let advantage = move |r: &f32| {
            let own = f64::from(*r);
            f32_of(own - (sum - own) / others)
        };
        rewards.iter().map(advantage)
    });
    let mut advantages: Vec<f32> = advantages.collect();
    if normalize {
        let (mean, deviation) = (mean(&advantages), deviation(&advantages));
        for advantage in &mut advantages {
            *advantage = f32_of((f64::from(*advantage) - mean) / (deviation + EPSILON));
        }
    }
    advantages
}
