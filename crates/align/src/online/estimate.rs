//! From rewards to advantages, as the method says.

use super::options::{Method, OnlineOptions};
use super::rollout::Completion;
use crate::advantages::{
    gae, group_advantages, informative_groups, reinforce_plus_plus, rloo_advantages, whiten,
};
use crate::host::{count, f32_of};
use crate::metrics::Metrics;
use crate::rewards::overlong_penalty;

/// Fills in advantages and returns; returns what is logged, and the mean divergence of a completion
/// from the reference.
///
/// # Logged parts
/// `objective/kl`, `objective/entropy`, `objective/non_score_reward`, `objective/rlhf_reward`,
/// `objective/scores`, `completions/mean_length`, `val/num_eos_tokens`,
/// `frac_reward_zero_std`, `advantages/mean`, `advantages/square`.
pub(super) fn estimate(
    completions: &mut Vec<Completion>,
    scores: &[f32],
    kl_coef: f64,
    options: &OnlineOptions,
) -> (Metrics, f64) {
    let mut metrics = Metrics::default();
    let scores = penalised(completions, scores, options);
    let divergences: Vec<Vec<f64>> = completions
        .iter()
        .map(|completion| divergence(completion, options))
        .collect();
    let kl: Vec<f64> = divergences.iter().map(|kl| kl.iter().sum()).collect();
    let mean_kl = kl.iter().sum::<f64>() / count(kl.len().max(1));
    metrics.extend("objective/kl", kl.iter().copied());
    metrics.extend(
        "objective/non_score_reward",
        kl.iter().map(|kl| -kl_coef * kl),
    );
    metrics.extend("objective/scores", scores.iter().map(|x| f64::from(*x)));
    let total = scores.iter().zip(&kl);
    let total = total.map(|(score, kl)| f64::from(*score) - kl_coef * kl);
    metrics.extend("objective/rlhf_reward", total.clone());
    metrics.extend("objective/entropy", completions.iter().map(surprise));
    let lengths = completions.iter().map(|c| count(c.tokens.len()));
    metrics.extend("completions/mean_length", lengths);
    let ends = completions.iter().map(|c| f64::from(u8::from(c.finished)));
    metrics.extend("val/num_eos_tokens", ends);
    let group = options.rollout.num_generations;
    match options.method {
        Method::Ppo(_) | Method::ReinforcePlusPlus { .. } => {
            tokens(completions, &scores, &divergences, kl_coef, options);
        }
        Method::Rloo(rloo) => {
            let totals: Vec<f32> = total.map(f32_of).collect();
            let advantages = rloo_advantages(&totals, group, rloo.normalize_advantages);
            spread(completions, &advantages);
        }
        Method::Grpo {
            scale_rewards,
            dynamic_sampling,
            ..
        } => {
            let totals: Vec<f32> = total.map(f32_of).collect();
            let advantages = group_advantages(&totals, group, scale_rewards);
            spread(completions, &advantages);
            if dynamic_sampling {
                keep_informative(completions, &totals, group);
            }
        }
    }
    if options.method.has_groups() {
        let groups = count(scores.len() / group);
        let informative = count(informative_groups(&scores, group).len());
        metrics.add("frac_reward_zero_std", groups - informative, groups);
    }
    let all = completions.iter().flat_map(|c| &c.advantages);
    metrics.extend("advantages/mean", all.clone().map(|a| f64::from(*a)));
    metrics.extend("advantages/square", all.map(|a| f64::from(*a).powi(2)));
    (metrics, mean_kl)
}

/// The scores less the penalties on completions that did not end, or became too long.
fn penalised(completions: &[Completion], scores: &[f32], options: &OnlineOptions) -> Vec<f32> {
    let (max, cache) = (
        options.rollout.max_completion_length,
        options.overlong_cache,
    );
    let each = completions.iter().zip(scores);
    each.map(|(completion, score)| {
        let mut score = *score;
        if !completion.finished {
            score -= f32_of(options.missing_eos_penalty);
        }
        if cache > 0 {
            score += overlong_penalty(completion.tokens.len(), max, cache);
        }
        score
    })
    .collect()
}

/// The divergence from the reference at each token; zeros without a reference.
fn divergence(completion: &Completion, options: &OnlineOptions) -> Vec<f64> {
    if completion.ref_logps.is_empty() {
        return vec![0.0; completion.tokens.len()];
    }
    let each = completion.old_logps.iter().zip(&completion.ref_logps);
    each.map(|(logp, reference)| {
        options
            .kl_estimator
            .of(f64::from(*logp), f64::from(*reference))
    })
    .collect()
}

/// `−Σ logp`: an estimate of the entropy of a completion.
fn surprise(completion: &Completion) -> f64 {
    -completion
        .old_logps
        .iter()
        .map(|x| f64::from(*x))
        .sum::<f64>()
}

/// Advantages of tokens, from rewards of tokens.
fn tokens(
    completions: &mut [Completion],
    scores: &[f32],
    divergences: &[Vec<f64>],
    kl_coef: f64,
    options: &OnlineOptions,
) {
    let each = scores.iter().zip(divergences);
    let mut rewards: Vec<Vec<f32>> = each
        .map(|(score, kl)| {
            let mut rewards: Vec<f32> = kl.iter().map(|kl| f32_of(-kl_coef * kl)).collect();
            if let Some(last) = rewards.last_mut() {
                *last += score;
            }
            rewards
        })
        .collect();
    let lengths: Vec<usize> = rewards.iter().map(Vec::len).collect();
    match options.method {
        Method::ReinforcePlusPlus { gamma, .. } => {
            let advantages = reinforce_plus_plus(&rewards, gamma);
            for (completion, advantages) in completions.iter_mut().zip(advantages) {
                completion.advantages = advantages;
            }
        }
        Method::Ppo(ppo) => {
            if ppo.whiten_rewards {
                let mut flat = rewards.concat();
                whiten(&mut flat, true);
                rewards = cut(&flat, &lengths);
            }
            let mut flat = Vec::new();
            for (completion, rewards) in completions.iter_mut().zip(&rewards) {
                let found = gae(rewards, &completion.old_values, ppo.gamma, ppo.lam);
                completion.returns = found.returns;
                flat.extend(found.advantages);
            }
            whiten(&mut flat, false);
            let advantages = cut(&flat, &lengths);
            for (completion, advantages) in completions.iter_mut().zip(advantages) {
                completion.advantages = advantages;
            }
        }
        Method::Grpo { .. } | Method::Rloo(_) => {}
    }
}

fn cut(flat: &[f32], lengths: &[usize]) -> Vec<Vec<f32>> {
    let mut rest = flat;
    lengths
        .iter()
        .map(|&len| {
            let (own, others) = rest.split_at(len);
            rest = others;
            own.to_vec()
        })
        .collect()
}

/// One advantage of each completion at all its tokens.
fn spread(completions: &mut [Completion], advantages: &[f32]) {
    for (completion, advantage) in completions.iter_mut().zip(advantages) {
        completion.advantages = vec![*advantage; completion.tokens.len()];
    }
}

/// Leaves out groups that teach nothing, unless none is left.
fn keep_informative(completions: &mut Vec<Completion>, rewards: &[f32], group: usize) {
    let informative = informative_groups(rewards, group);
    if informative.is_empty() {
        return;
    }
    let mut place = 0;
    completions.retain(|_| {
        place += 1;
        informative.contains(&((place - 1) / group))
    });
}
