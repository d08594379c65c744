//! What training a reward model minimises.

use burn::tensor::Tensor;
use flametune_data::{Collator, EncodedPair};
use flametune_peft::AdapterPass;
use flametune_train::optim::GradientSum;
use flametune_train::{Backprop, BatchLoss, Extent, MicroStep, Objective};

use super::model::{RewardModel, scores};
use crate::error::Result;
use crate::host::count;
use crate::losses::{PairLogps, PairLosses, RewardLossOptions, bradley_terry};
use crate::sequences::{Sequence, SequenceBatch};

/// A micro-batch of pairs, chosen answers first.
#[derive(Debug, Clone)]
pub struct RewardBatch {
    /// The sequences.
    pub sequences: SequenceBatch,
    /// By how much each chosen answer is better; 0 where the data does not say.
    pub margins: Vec<f32>,
}

impl RewardBatch {
    /// A batch of pairs.
    ///
    /// # Errors
    /// Those of [`SequenceBatch::new`].
    pub fn new(pairs: &[&EncodedPair], collator: &Collator) -> Result<Self> {
        let chosen = pairs.iter().map(|pair| &pair.chosen);
        let rejected = pairs.iter().map(|pair| &pair.rejected);
        let sequences: Vec<Sequence<'_>> = chosen
            .chain(rejected)
            .map(|example| Sequence {
                example,
                with_prompt: false,
            })
            .collect();
        let margins = pairs.iter().map(|pair| pair.margin.unwrap_or(0.0));
        Ok(Self {
            sequences: SequenceBatch::new(&sequences, collator, None)?,
            margins: margins.collect(),
        })
    }
}

/// Training a reward model on pairs.
///
/// The loss of a step is the mean over its pairs.
#[derive(Debug, Clone)]
pub struct RewardTraining {
    /// The adapters that are trained.
    pub pass: AdapterPass,
    /// The loss.
    pub options: RewardLossOptions,
    /// Layers are computed again in the backward pass.
    pub recompute: bool,
}

impl RewardTraining {
    fn losses(&self, model: &RewardModel, hidden: Tensor<3>, batch: &RewardBatch) -> PairLosses {
        let scores = scores(&model.score, &batch.sequences, hidden);
        bradley_terry(&PairLogps::halves(scores), &batch.margins, &self.options)
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
            supervised_tokens: batch.sequences.len(),
            weight: count(batch.margins.len()),
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
        let forward = Backprop {
            recompute: self.recompute,
            ..Backprop::new(&model.lm, batch.sequences.tokens(), &pass)
        };
        let mut parts = crate::Metrics::default();
        let sum = forward.run(model, at, gradients, |hidden| {
            let found = self.losses(model, hidden, batch);
            parts = found.parts;
            Ok(found.losses.sum())
        })?;
        Ok(parts.with_loss(sum))
    }

    fn evaluate(
        &self,
        model: &RewardModel,
        batch: &RewardBatch,
    ) -> flametune_train::Result<BatchLoss> {
        let hidden = model
            .lm
            .forward(batch.sequences.tokens(), None, &self.pass)?;
        let found = self.losses(model, hidden, batch);
        let sum = f64::from(found.losses.sum().into_scalar::<f32>());
        Ok(found.parts.with_loss(sum))
    }

    fn settings(&self) -> serde_json::Value {
        serde_json::json!({ "options": self.options, "recompute": self.recompute })
    }
}
