//! A toy of which the optimum is known: the share of a class of tokens.

use flametune_align::advantages::ScaleRewards;
use flametune_align::losses::{GroupKind, GroupOptions};
use flametune_align::online::{Method, OnlineOptions, PpoOptions, RlooOptions, RolloutOptions};
use flametune_align::rewards::{RewardSum, Rule, RuleReward};
use flametune_train::StepReport;

use crate::tiny::{learn, mean};

/// The class: a quarter of the vocabulary.
fn class() -> Vec<u32> {
    (0..300).filter(|id| id % 4 == 0).collect()
}

/// Tokens of a completion.
const LENGTH: usize = 8;

fn options(method: Method) -> OnlineOptions {
    OnlineOptions {
        rollout: RolloutOptions {
            prompts: 8,
            num_generations: 4,
            max_completion_length: LENGTH,
            batch_size: 32,
        },
        kl_coef: 0.02,
        micro_batch_size: 16,
        num_epochs: 2,
        ..OnlineOptions::new(method)
    }
}

fn share() -> RewardSum<'static> {
    RewardSum::of(RuleReward::new(Rule::TokenShare { ids: class() }))
}

/// The reward rises to near its optimum of one, and the policy stays near the reference: the least
/// divergence of a policy that chooses from a quarter of even tokens is `ln 4` a token.
fn check(name: &str, steps: &[StepReport]) {
    let (first, last) = (&steps[..4], &steps[steps.len() - 6..]);
    let (before, after) = (
        mean(first, "objective/scores"),
        mean(last, "objective/scores"),
    );
    let kl = mean(last, "objective/kl");
    let least = 4_f64.ln() * LENGTH as f64;
    assert!(before < 0.45, "{name}: {before}");
    assert!(after > 0.9, "{name}: {before} -> {after}");
    assert!(kl < 1.5 * least, "{name}: KL {kl}");
}

#[test]
fn ppo_raises_a_known_reward() {
    let options = options(Method::Ppo(PpoOptions::default()));
    let (steps, _) = learn(&options, share(), 100, 3e-3);
    check("PPO", &steps);
    for name in [
        "policy/clipfrac",
        "policy/approxkl",
        "val/clipfrac",
        "loss/value",
    ] {
        assert!(mean(&steps, name).is_finite());
    }
    // The value head learns what completions are worth.
    let error = |steps: &[StepReport]| mean(steps, "val/error");
    assert!(error(&steps[180..]) < error(&steps[..4]));
}

#[test]
fn grpo_raises_a_known_reward() {
    let options = options(Method::Grpo {
        loss: GroupOptions {
            kind: GroupKind::Dapo,
            epsilon_high: 0.28,
            ..GroupOptions::default()
        },
        scale_rewards: ScaleRewards::Group,
        dynamic_sampling: true,
    });
    let (steps, _) = learn(&options, share(), 100, 3e-3);
    check("GRPO", &steps);
}

#[test]
fn rloo_raises_a_known_reward() {
    let options = options(Method::Rloo(RlooOptions {
        normalize_advantages: true,
        ..RlooOptions::default()
    }));
    let (steps, _) = learn(&options, share(), 100, 3e-3);
    check("RLOO", &steps);
}

#[test]
fn reinforce_plus_plus_raises_a_known_reward() {
    let options = options(Method::ReinforcePlusPlus {
        cliprange: 0.2,
        gamma: 1.0,
    });
    let (steps, _) = learn(&options, share(), 100, 3e-3);
    check("REINFORCE++", &steps);
}

#[test]
fn ratios_begin_at_one_and_the_reference_is_the_base() {
    let options = options(Method::Ppo(PpoOptions::default()));
    let (steps, _) = learn(&options, share(), 1, 1e-2);
    let first = &steps[0].metrics;
    assert!((first["val/ratio"] - 1.0).abs() < 1e-4, "{first:?}");
    assert!(first["policy/approxkl"] < 1e-8, "{first:?}");
    // The adapter begins at zero: the policy is the reference.
    assert!(first["objective/kl"].abs() < 1e-3, "{first:?}");
    assert_eq!(first["completions/mean_length"], LENGTH as f64);
    assert!(!steps[1].metrics.contains_key("objective/kl"));
}

#[test]
fn a_policy_that_moves_too_far_begins_anew() {
    let mut options = options(Method::Ppo(PpoOptions::default()));
    options.num_epochs = 4;
    let iterations = |options: &OnlineOptions| {
        let (steps, _) = learn(options, share(), 2, 3e-2);
        assert_eq!(steps.len(), 8);
        let begun = steps
            .iter()
            .filter(|step| step.metrics.contains_key("objective/kl"));
        begun.count()
    };
    assert_eq!(iterations(&options), 2);
    options.target_kl = 1e-9;
    assert_eq!(iterations(&options), 8);
}
