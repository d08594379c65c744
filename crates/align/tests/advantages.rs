//! What must be true of advantages.

use flametune_align::advantages::{
    ScaleRewards, gae, group_advantages, informative_groups, reinforce_plus_plus, rloo_advantages,
    whiten,
};
use flametune_align::reward_model::RewardReport;
use proptest::prelude::*;

fn close(got: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(expected) {
        assert!((got - expected).abs() <= tolerance, "{got} != {expected}");
    }
}

fn numbers(len: std::ops::Range<usize>) -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(-5.0_f32..5.0, len)
}

proptest! {
    #[test]
    fn gae_with_lambda_one_is_returns_minus_values(
        rewards in numbers(1..20),
        gamma in 0.5_f32..1.0,
        seed in 0_usize..100,
    ) {
        let values: Vec<f32> = (0..rewards.len()).map(|i| ((i + seed) % 7) as f32 - 3.0).collect();
        let found = gae(&rewards, &values, f64::from(gamma), 1.0);
        let mut next = 0.0_f32;
        let mut returns = vec![0.0; rewards.len()];
        for (slot, reward) in returns.iter_mut().zip(&rewards).rev() {
            next = reward + gamma * next;
            *slot = next;
        }
        let expected: Vec<f32> = returns.iter().zip(&values).map(|(r, v)| r - v).collect();
        // Twenty sums of numbers up to 100, in f32 at the end only.
        close(&found.advantages, &expected, 1e-4);
        close(&found.returns, &returns, 1e-4);
    }

    #[test]
    fn gae_with_lambda_zero_is_the_error_of_one_step(rewards in numbers(1..20)) {
        let values: Vec<f32> = (0..rewards.len()).map(|i| (i % 3) as f32).collect();
        let found = gae(&rewards, &values, 0.9, 0.0);
        let next = |t: usize| values.get(t + 1).copied().unwrap_or(0.0);
        let expected: Vec<f32> =
            (0..rewards.len()).map(|t| rewards[t] + 0.9 * next(t) - values[t]).collect();
        close(&found.advantages, &expected, 1e-5);
    }

    #[test]
    fn whitened_numbers_have_zero_mean_and_unit_variance(mut values in numbers(3..40)) {
        values[0] = 9.0;
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let mut kept = values.clone();
        whiten(&mut values, false);
        whiten(&mut kept, true);
        let n = values.len() as f32;
        prop_assert!(values.iter().sum::<f32>().abs() / n < 1e-5);
        let variance = values.iter().map(|x| x * x).sum::<f32>() / (n - 1.0);
        prop_assert!((variance - 1.0).abs() < 1e-4);
        prop_assert!((kept.iter().sum::<f32>() / n - mean).abs() < 1e-4);
    }

    /// Each group's advantages add up to nothing, and a constant on its rewards changes nothing.
    #[test]
    fn advantages_of_groups_are_relative(rewards in numbers(12..13), shift in -50.0_f32..50.0) {
        let shifted: Vec<f32> = rewards.iter().map(|r| r + shift).collect();
        for scale in [ScaleRewards::Group, ScaleRewards::None] {
            let found = group_advantages(&rewards, 4, scale);
            for group in found.chunks(4) {
                prop_assert!(group.iter().sum::<f32>().abs() < 1e-3);
            }
            close(&found, &group_advantages(&shifted, 4, scale), 1e-3);
        }
        close(&rloo_advantages(&rewards, 4, false), &rloo_advantages(&shifted, 4, false), 1e-3);
    }
}

#[test]
fn leave_one_out_leaves_one_out() {
    assert_eq!(
        rloo_advantages(&[1.0, 2.0, 6.0], 3, false),
        [-3.0, -1.5, 4.5]
    );
}

#[test]
fn groups_without_variance_teach_nothing() {
    let rewards = [1.0, 1.0, 0.0, 1.0, 2.0, 2.0];
    assert_eq!(informative_groups(&rewards, 2), [1]);
    let advantages = group_advantages(&rewards, 2, ScaleRewards::Group);
    assert_eq!(advantages[..2], [0.0, 0.0]);
}

#[test]
fn reinforce_returns_are_whitened_over_all_tokens() {
    let found = reinforce_plus_plus(&[vec![0.0, 0.0, 1.0], vec![3.0]], 1.0);
    // Returns 1, 1, 1 and 3: mean 1.5, unbiased variance 1.
    close(&found[0], &[-0.5; 3], 1e-6);
    close(&found[1], &[1.5], 1e-6);
}

#[test]
fn a_report_counts_right_pairs_and_confidence() {
    let report = RewardReport::of(&[2.0, 2.0, 2.0, -2.0]);
    assert_eq!(
        (report.items, report.accuracy, report.margin),
        (4, 0.75, 1.0)
    );
    // The confidence is σ(2) = 0.8808 for all, and three of four are right.
    assert!((report.calibration_error - 0.1308).abs() < 1e-4);
    // Wilson's interval of 3 in 4.
    assert!((report.interval.0 - 0.3006).abs() < 1e-4, "{report:?}");
    assert!((report.interval.1 - 0.9544).abs() < 1e-4, "{report:?}");
}
