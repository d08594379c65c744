//! What online methods minimise.

use burn::tensor::Tensor;
use flametune_data::Collator;
use flametune_peft::AdapterPass;
use flametune_train::optim::GradientSum;
use flametune_train::{BatchLoss, Extent, MicroStep, Objective};

use super::measure::{sequences, values};
use super::options::{Method, OnlineOptions};
use super::policy::Policy;
use super::rollout::Completion;
use crate::error::Result;
use crate::host::count;
use crate::losses::{
    GroupBatch, PolicyTokens, StepSize, ValueTokens, group_policy, ppo_policy, ppo_value,
    rloo_policy,
};
use crate::metrics::Metrics;
use crate::pass::Forward;
use crate::sequences::SequenceBatch;

/// A micro-batch of completions.
#[derive(Debug, Clone)]
pub struct OnlineBatch {
    sequences: SequenceBatch,
    lengths: Vec<usize>,
    old_logps: Vec<f32>,
    ref_logps: Vec<f32>,
    old_values: Vec<f32>,
    /// One a token.
    advantages: Vec<f32>,
    returns: Vec<f32>,
    /// The whole optimizer step.
    step: StepSize,
    /// What is logged beside the losses.
    logged: Vec<(String, f64)>,
}

impl OnlineBatch {
    pub(super) fn new(
        completions: &[&Completion],
        step: StepSize,
        logged: Vec<(String, f64)>,
        collator: &Collator,
    ) -> Result<Self> {
        let flat = |field: fn(&Completion) -> &[f32]| -> Vec<f32> {
            completions.iter().flat_map(|c| field(c)).copied().collect()
        };
        Ok(Self {
            sequences: sequences(completions, collator)?,
            lengths: completions.iter().map(|c| c.tokens.len()).collect(),
            old_logps: flat(|c| &c.old_logps),
            ref_logps: flat(|c| &c.ref_logps),
            old_values: flat(|c| &c.old_values),
            advantages: flat(|c| &c.advantages),
            returns: flat(|c| &c.returns),
            step,
            logged,
        })
    }

    /// The advantage of each completion, which all its tokens have.
    fn completion_advantages(&self) -> Vec<f32> {
        let mut start = 0;
        let first = self.lengths.iter().map(|len| {
            let advantage = self.advantages.get(start).copied().unwrap_or(0.0);
            start += len;
            advantage
        });
        first.collect()
    }
}

/// Learning from completions that the policy sampled.
///
/// The loss of a step is a mean over its tokens for PPO and REINFORCE++, over its completions for RLOO,
/// and as [`GroupKind`](crate::losses::GroupKind) says for GRPO.
#[derive(Debug, Clone)]
pub struct Online {
    /// The adapters that are trained.
    pub pass: AdapterPass,
    /// The method and its options.
    pub options: OnlineOptions,
    /// Layers are computed again in the backward pass.
    pub recompute: bool,
}

impl Online {
    /// The batch's share of the step's loss, times the step's weight.
    fn loss(
        &self,
        model: &Policy,
        hidden: Tensor<3>,
        batch: &OnlineBatch,
        pass: &AdapterPass,
    ) -> flametune_lm::Result<(Tensor<1>, Metrics)> {
        let found = match (&self.options.method, &model.value) {
            (Method::Ppo(_), Some(head)) => Some(values(head, &batch.sequences, hidden.clone())),
            _ => None,
        };
        let logps = batch.sequences.logps(&model.lm, hidden, pass)?;
        let logps = batch.sequences.of_answers(logps);
        let advantages = batch.completion_advantages();
        let group = |logps: Tensor<1>| GroupBatch {
            logps,
            old_logps: &batch.old_logps,
            ref_logps: (!batch.ref_logps.is_empty()).then_some(&batch.ref_logps),
            lengths: &batch.lengths,
            advantages: &advantages,
        };
        let tokens = |logps: Tensor<1>| PolicyTokens {
            logps,
            old_logps: &batch.old_logps,
            advantages: &batch.advantages,
        };
        Ok(match &self.options.method {
            Method::Ppo(ppo) => {
                let (policy, mut parts) = ppo_policy(&tokens(logps), ppo.cliprange);
                let mut sum = policy.sum();
                parts.add("loss/policy", scalar(&sum), count(batch.old_logps.len()));
                if let Some(found) = found {
                    let tokens = ValueTokens {
                        values: found,
                        old_values: &batch.old_values,
                        returns: &batch.returns,
                    };
                    let (value, more) = ppo_value(&tokens, ppo.cliprange_value);
                    let value = value.sum();
                    parts.merge(&more);
                    parts.add("loss/value", scalar(&value), count(batch.old_logps.len()));
                    sum = sum + value * ppo.vf_coef;
                }
                (sum, parts)
            }
            Method::ReinforcePlusPlus { cliprange, .. } => {
                let (policy, parts) = ppo_policy(&tokens(logps), *cliprange);
                (policy.sum(), parts)
            }
            Method::Rloo(rloo) => {
                let batch = group(logps);
                let (losses, parts) = rloo_policy(&batch, rloo.epsilon, rloo.epsilon_high);
                (losses.sum(), parts)
            }
            Method::Grpo { loss, .. } => {
                let (share, parts) = group_policy(&group(logps), batch.step, loss);
                (share * count(batch.step.completions), parts)
            }
        })
    }

    fn weight(&self, batch: &OnlineBatch) -> f64 {
        match self.options.method {
            Method::Ppo(_) | Method::ReinforcePlusPlus { .. } => count(batch.old_logps.len()),
            Method::Rloo(_) | Method::Grpo { .. } => count(batch.lengths.len()),
        }
    }
}

fn scalar(tensor: &Tensor<1>) -> f64 {
    f64::from(tensor.clone().into_scalar::<f32>())
}

impl Objective for Online {
    type Model = Policy;
    type Batch = OnlineBatch;

    fn validate(&self) -> flametune_train::Result<()> {
        Ok(self.options.validate()?)
    }

    fn extent(&self, batch: &OnlineBatch) -> Extent {
        Extent {
            tokens: batch.sequences.slots(),
            supervised_tokens: batch.old_logps.len(),
            weight: self.weight(batch),
        }
    }

    fn accumulate(
        &self,
        model: &Policy,
        batch: &OnlineBatch,
        at: &MicroStep,
        gradients: &mut GradientSum,
    ) -> flametune_train::Result<BatchLoss> {
        // Without dropout: the ratio to the sampling policy is one before the first step.
        let pass = &self.pass;
        let forward = Forward {
            lm: &model.lm,
            tokens: batch.sequences.tokens(),
            pass,
        };
        forward.accumulate(model, self.recompute, at, gradients, |hidden| {
            let (sum, mut parts) = self.loss(model, hidden, batch, pass)?;
            for (name, value) in &batch.logged {
                parts.add(name.as_str(), *value, 1.0);
            }
            Ok((sum, parts))
        })
    }

    fn evaluate(&self, model: &Policy, batch: &OnlineBatch) -> flametune_train::Result<BatchLoss> {
        let forward = Forward {
            lm: &model.lm,
            tokens: batch.sequences.tokens(),
            pass: &self.pass,
        };
        forward.evaluate(|hidden| Ok(self.loss(model, hidden, batch, &self.pass)?))
    }

    fn settings(&self) -> serde_json::Value {
        serde_json::json!({ "options": self.options, "recompute": self.recompute })
    }
}
