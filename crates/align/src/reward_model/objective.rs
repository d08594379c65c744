//! What training a reward model minimises.

use burn::tensor::Tensor;
use flametune_peft::AdapterPass;
use flametune_train::optim::GradientSum;
use flametune_train::{BatchLoss, Extent, MicroStep, Objective};

use super::batch::{RewardBatch, RewardTarget};
use super::model::{RewardModel, scores};
use crate::host::count;
use crate::losses::{PairLogps, RewardLossOptions, bradley_terry, process_reward};
use crate::metrics::Metrics;
use crate::pass::Forward;

/// Training a reward model on pairs, or a process reward model on answers in steps.
///
/// The loss of a step is the mean over its pairs, or over the steps of its answers.
#[derive(Debug, Clone)]
pub struct RewardTraining {
    /// The adapters that are trained.
    pub pass: AdapterPass,
    /// The loss of pairs; that of steps has no options.
    pub options: RewardLossOptions,
    /// Layers are computed again in the backward pass.
    pub recompute: bool,
}

impl RewardTraining {
    /// The sum over the pairs or steps of a batch.
    fn sum(
        &self,
        model: &RewardModel,
        hidden: Tensor<3>,
        batch: &RewardBatch,
    ) -> flametune_train::Result<(Tensor<1>, Metrics)> {
        let scores = scores(&model.score, &batch.places, hidden);
        let found = match &batch.target {
            RewardTarget::Margins(margins) => {
                bradley_terry(&PairLogps::halves(scores), margins, &self.options)
            }
            RewardTarget::Steps(labels) => process_reward(&scores, labels),
        };
        Ok((found.losses.sum(), found.parts))
    }
}

impl Objective for RewardTraining {
    type Model = RewardModel;
    type Batch = RewardBatch;

    fn validate(&self) -> flametune_train::Result<()> {
        Ok(self.options.validate()?)
    }

    fn extent(&self, batch: &RewardBatch) -> Extent {
        Extent {
            tokens: batch.sequences.slots(),
            supervised_tokens: batch.places.len(),
            weight: count(batch.items()),
        }
    }

    fn accumulate(
        &self,
        model: &RewardModel,
        batch: &RewardBatch,
        at: &MicroStep,
        gradients: &mut GradientSum,
    ) -> flametune_train::Result<BatchLoss> {
        let pass = at.dropout(&self.pass);
        let forward = Forward {
            lm: &model.lm,
            tokens: batch.sequences.tokens(),
            pass: &pass,
        };
        forward.accumulate(model, self.recompute, at, gradients, |hidden| {
            self.sum(model, hidden, batch)
        })
    }

    fn evaluate(
        &self,
        model: &RewardModel,
        batch: &RewardBatch,
    ) -> flametune_train::Result<BatchLoss> {
        let forward = Forward {
            lm: &model.lm,
            tokens: batch.sequences.tokens(),
            pass: &self.pass,
        };
        forward.evaluate(|hidden| self.sum(model, hidden, batch))
    }

    fn settings(&self) -> serde_json::Value {
        serde_json::json!({ "options": self.options, "recompute": self.recompute })
    }
}
