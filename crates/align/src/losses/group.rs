//! The policy loss of GRPO and its relatives.

use burn::tensor::{Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::check::{not_negative, positive, refused};
use crate::error::Result;
use crate::host::{constant, count, f32_of, numbers};
use crate::kl::KlEstimator;
use crate::metrics::Metrics;

/// How tokens are averaged and ratios clipped, by TRL's name (`loss_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupKind {
    /// GRPO: the mean over tokens of each completion, then over completions.
    Grpo,
    /// The mean over the tokens of the update.
    Bnpo,
    /// Dr. GRPO: the sum over tokens, divided by completions times the longest allowed.
    DrGrpo,
    /// DAPO: the mean over the tokens of the optimizer step.
    #[default]
    Dapo,
    /// CISPO: the clipped ratio weighs the log-probability and has no gradient.
    Cispo,
}

/// Whose probability ratio is clipped, by TRL's name (`importance_sampling_level`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Each token's.
    #[default]
    Token,
    /// That of the whole completion, to the power of one over its tokens (GSPO).
    Sequence,
}

/// The options of [`group_policy`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GroupOptions {
    /// How tokens are averaged.
    pub kind: GroupKind,
    /// Whose ratio is clipped.
    pub level: Level,
    /// How far a ratio may fall.
    pub epsilon: f64,
    /// How far it may rise; 0 is `epsilon`. For CISPO, the largest ratio.
    pub epsilon_high: f64,
    /// The largest ratio of the unclipped term; 0 for none.
    pub delta: f64,
    /// Weight of the KL divergence from the reference (k3); 0 needs no reference.
    pub beta: f64,
    /// Whether the KL estimate is weighed by the ratio, which makes its gradient unbiased.
    pub use_bias_correction_kl: bool,
}

impl Default for GroupOptions {
    fn default() -> Self {
        Self {
            kind: GroupKind::Dapo,
            level: Level::Token,
            epsilon: 0.2,
            epsilon_high: 0.0,
            delta: 0.0,
            beta: 0.0,
            use_bias_correction_kl: false,
        }
    }
}

impl GroupOptions {
    /// Checks every number.
    ///
    /// # Errors
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) naming the field.
    pub fn validate(&self) -> Result<()> {
        positive("epsilon", self.epsilon)?;
        not_negative("epsilon_high", self.epsilon_high)?;
        not_negative("delta", self.delta)?;
        not_negative("beta", self.beta)?;
        if self.kind == GroupKind::Cispo && self.epsilon_high == 0.0 {
            let reason = "must be above 0 for cispo, whose largest ratio it is, got 0";
            return refused("epsilon_high", reason.to_owned());
        }
        Ok(())
    }

    /// The bounds of ratios, below and above one.
    fn bounds(&self) -> (f64, f64) {
        match self.epsilon_high {
            0.0 => (self.epsilon, self.epsilon),
            high => (self.epsilon, high),
        }
    }
}

/// Completions and how good they were.
///
/// Tokens of all completions stand one after the other.
#[derive(Debug, Clone)]
pub struct GroupBatch<'a> {
    /// Log-probabilities under the policy, `[tokens]`.
    pub logps: Tensor<1>,
    /// Log-probabilities under the policy that sampled the tokens.
    pub old_logps: &'a [f32],
    /// Log-probabilities under the reference.
    pub ref_logps: Option<&'a [f32]>,
    /// Tokens of each completion, at least one.
    pub lengths: &'a [usize],
    /// Advantage of each completion.
    pub advantages: &'a [f32],
}

impl GroupBatch<'_> {
    pub(super) fn check(&self) {
        let [tokens] = self.logps.dims();
        assert_eq!(self.old_logps.len(), tokens, "old log-probabilities");
        assert_eq!(self.lengths.iter().sum::<usize>(), tokens, "lengths");
        assert_eq!(self.advantages.len(), self.lengths.len(), "advantages");
    }

    /// One value of each completion at each of its tokens.
    fn at_tokens(&self, values: &[f32]) -> Vec<f32> {
        let each = values.iter().zip(self.lengths);
        each.flat_map(|(value, &len)| std::iter::repeat_n(*value, len))
            .collect()
    }
}

/// What the whole optimizer step holds, which its losses are divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepSize {
    /// Completions of the step.
    pub completions: usize,
    /// Tokens of the step.
    pub tokens: usize,
    /// Most tokens that a completion may have.
    pub max_completion_length: usize,
}

/// The part of an optimizer step's loss that these completions make: the sum over all parts is the
/// step's loss, however completions are spread over micro-batches.
///
/// With the ratio `ρ = e^(logp − old)` of a token or of a whole completion, a token costs
/// `−min(min(ρ, δ)·A, clip(ρ, 1 − ε, 1 + ε_high)·A) + β·(e^(ref − logp) − (ref − logp) − 1)`.
///
/// # Shapes
/// - returns `[1]`
///
/// # Logged parts
/// `kl`, `clip_ratio/low_mean`, `clip_ratio/high_mean`, `clip_ratio/region_mean`.
///
/// # Panics
/// When lengths differ, or `beta` is above zero and there is no reference.
///
/// # Source
/// - Shao et al. 2024, DeepSeekMath, arXiv:2402.03300, eq. (3): GRPO
/// - Liu et al. 2025, Understanding R1-Zero-Like Training, arXiv:2503.20783: Dr. GRPO
/// - Yu et al. 2025, DAPO, arXiv:2503.14476, eq. (8)
/// - Zheng et al. 2025, Group Sequence Policy Optimization, arXiv:2507.18071: the ratio of sequences
/// - reference: TRL 1.16 `grpo_trainer.py::_compute_loss`; golden `fixtures/align/group.safetensors`
pub fn group_policy(
    batch: &GroupBatch<'_>,
    step: StepSize,
    options: &GroupOptions,
) -> (Tensor<1>, Metrics) {
    batch.check();
    let device = batch.logps.device();
    let old = constant(batch.old_logps.to_vec(), &device);
    let gaps = batch.logps.clone() - old;
    let token_advantages = batch.at_tokens(batch.advantages);
    let (low, high) = options.bounds();
    let (ratio, clips) = match options.level {
        Level::Token => {
            let ratio = gaps.exp();
            let each = token_advantages.iter().copied();
            let clips = clip_parts(&numbers(&ratio), each, (low, high));
            (ratio, clips)
        }
        Level::Sequence => {
            let ratio = sums_by_completion(&gaps, batch.lengths, true).exp();
            let each = batch.advantages.iter().copied();
            let clips = clip_parts(&numbers(&ratio), each, (low, high));
            (ratio.select(0, rows(batch.lengths, &device)), clips)
        }
    };
    let advantages = constant(token_advantages, &device);
    let mut parts = Metrics::default();
    let mut losses = if options.kind == GroupKind::Cispo {
        let weight = ratio.clone().clamp_max(high).detach();
        (weight * advantages * batch.logps.clone()).neg()
    } else {
        parts = clips;
        let clipped = ratio.clone().clamp(1.0 - low, 1.0 + high);
        let free = match options.delta {
            0.0 => ratio.clone(),
            delta => ratio.clone().clamp_max(delta),
        };
        (free * advantages.clone())
            .min_pair(clipped * advantages)
            .neg()
    };
    if options.beta > 0.0 {
        let Some(reference) = batch.ref_logps else {
            unreachable!("the caller gave no log-probabilities of the reference");
        };
        let reference = constant(reference.to_vec(), &device);
        let mut kl = KlEstimator::K3.of_tensors(batch.logps.clone(), reference);
        if options.use_bias_correction_kl {
            kl = kl * ratio;
        }
        parts.extend("kl", numbers(&kl).iter().map(|x| f64::from(*x)));
        losses = losses + kl * options.beta;
    }
    let weights = constant(token_weights(batch.lengths, step, options.kind), &device);
    ((losses * weights).sum(), parts)
}

/// The share of each token in the step's loss.
fn token_weights(lengths: &[usize], step: StepSize, kind: GroupKind) -> Vec<f32> {
    let completions = count(step.completions.max(1));
    let weight = |len: usize| match kind {
        GroupKind::Grpo => 1.0 / (completions * count(len.max(1))),
        GroupKind::Bnpo | GroupKind::Dapo | GroupKind::Cispo => 1.0 / count(step.tokens.max(1)),
        GroupKind::DrGrpo => 1.0 / (completions * count(step.max_completion_length.max(1))),
    };
    let each = lengths.iter();
    each.flat_map(|&len| std::iter::repeat_n(f32_of(weight(len)), len))
        .collect()
}

/// The completion of each token.
fn rows(lengths: &[usize], device: &burn::tensor::Device) -> Tensor<1, Int> {
    let rows: Vec<i64> = (0_i64..)
        .zip(lengths)
        .flat_map(|(row, &len)| std::iter::repeat_n(row, len))
        .collect();
    let len = rows.len();
    Tensor::from_data(TensorData::new(rows, [len]), device)
}

/// The sum, or the mean, of the values of each completion's tokens, `[completions]`.
pub(super) fn sums_by_completion(values: &Tensor<1>, lengths: &[usize], mean: bool) -> Tensor<1> {
    let parts: Vec<Tensor<1>> = lengths
        .iter()
        .scan(0, |start, &len| {
            let from = *start;
            *start += len;
            Some((from, len))
        })
        .map(|(from, len)| {
            let part = values.clone().narrow(0, from, len);
            if mean { part.mean() } else { part.sum() }
        })
        .collect();
    Tensor::cat(parts, 0)
}

/// How many ratios were held back, each with an advantage.
pub(super) fn clip_parts(
    ratios: &[f32],
    advantages: impl IntoIterator<Item = f32>,
    (low, high): (f64, f64),
) -> Metrics {
    let (mut below, mut above) = (0, 0);
    for (ratio, advantage) in ratios.iter().zip(advantages) {
        below += usize::from(f64::from(*ratio) < 1.0 - low && advantage < 0.0);
        above += usize::from(f64::from(*ratio) > 1.0 + high && advantage > 0.0);
    }
    let len = count(ratios.len());
    let mut parts = Metrics::default();
    parts.add("clip_ratio/low_mean", count(below), len);
    parts.add("clip_ratio/high_mean", count(above), len);
    parts.add("clip_ratio/region_mean", count(below + above), len);
    parts
}
