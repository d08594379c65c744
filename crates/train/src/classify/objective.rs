//! Telling classes apart, as something to minimise.

use flametune_data::{BatchSampler, ClassifiedBatch, Collator, SamplerCursor};
use flametune_lm::BertModel;
use flametune_peft::AdapterPass;

use super::loss::{class_cross_entropy, class_scores};
use super::rows::ClassifiedRows;
use super::scores::Scores;
use crate::error::{Error, Result};
use crate::fit::{Drawn, Feed};
use crate::objective::{BatchLoss, Extent, MicroStep, Objective};
use crate::optim::GradientSum;

/// Records that a message names; of the others it gives the number.
const NAMED: usize = 8;

/// The cross-entropy of texts and their classes; the loss of a step is the mean over its texts.
#[derive(Debug, Clone, Default)]
pub struct Classification {
    /// The adapters that are trained.
    pub pass: AdapterPass,
    /// Part of the target that goes to all classes alike.
    pub label_smoothing: f64,
}

impl Objective for Classification {
    type Model = BertModel;
    type Batch = ClassifiedBatch;

    fn validate(&self) -> Result<()> {
        if (0.0..1.0).contains(&self.label_smoothing) {
            return Ok(());
        }
        Err(Error::InvalidConfig {
            field: "label_smoothing",
            reason: format!(
                "must be at least 0 and below 1, got {}",
                self.label_smoothing
            ),
        })
    }

    fn extent(&self, batch: &ClassifiedBatch) -> Extent {
        let rows = batch.classes.len();
        Extent {
            tokens: batch.tokens.input_ids.len(),
            supervised_tokens: rows,
            weight: count(rows),
        }
    }

    fn accumulate(
        &self,
        model: &BertModel,
        batch: &ClassifiedBatch,
        at: &MicroStep,
        gradients: &mut GradientSum,
    ) -> Result<BatchLoss> {
        let scores = class_scores(model, batch, &at.dropout(&self.pass))?;
        let loss = class_cross_entropy(scores, &batch.classes, self.label_smoothing);
        let sum = f64::from(loss.clone().inner().into_scalar::<f32>());
        gradients.add(model, &mut at.backward(loss));
        Ok(BatchLoss::new(sum))
    }

    /// The loss without smoothing, and the accuracy.
    fn evaluate(&self, model: &BertModel, batch: &ClassifiedBatch) -> Result<BatchLoss> {
        let scores = class_scores(model, batch, &self.pass)?;
        let said = chosen(&scores);
        let right = said.iter().zip(&batch.classes).filter(|(a, b)| a == b);
        let (right, rows) = (count(right.count()), count(batch.classes.len()));
        let loss = class_cross_entropy(scores, &batch.classes, 0.0);
        let sum = f64::from(loss.into_scalar::<f32>());
        Ok(BatchLoss::new(sum).with("accuracy", right, rows))
    }

    fn settings(&self) -> serde_json::Value {
        serde_json::json!({ "label_smoothing": self.label_smoothing })
    }
}

/// What is said of the texts of `batches`, by a model without autodiff.
///
/// # Errors
/// Those of the forward pass.
pub fn score<'a>(
    model: &BertModel,
    pass: &AdapterPass,
    batches: impl IntoIterator<Item = &'a ClassifiedBatch>,
) -> Result<Scores> {
    let (mut pairs, mut classes) = (Vec::new(), 0);
    for batch in batches {
        let scores = class_scores(model, batch, pass)?;
        classes = scores.dims()[1];
        pairs.extend(batch.classes.iter().copied().zip(chosen(&scores)));
    }
    Ok(Scores::of(classes, pairs))
}

/// The class with the highest score of each row.
fn chosen(scores: &burn::tensor::Tensor<2>) -> Vec<usize> {
    let said = scores.clone().argmax(1).into_data();
    said.iter::<i64>()
        .map(|class| usize::try_from(class).unwrap_or(usize::MAX))
        .collect()
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52 texts")]
fn count(rows: usize) -> f64 {
    rows as f64
}

/// What a classifier trains on, and is measured with.
#[derive(Debug)]
pub struct ClassifiedData<'a> {
    /// The texts.
    pub rows: &'a ClassifiedRows,
    /// Which of them make which step.
    pub sampler: BatchSampler,
    /// How they become batches.
    pub collator: Collator,
    /// The validation data; empty for none.
    pub evaluation: &'a [ClassifiedBatch],
}

impl Feed<Classification> for ClassifiedData<'_> {
    type Cursor = SamplerCursor;

    fn steps_per_epoch(&self) -> usize {
        self.sampler.steps_per_epoch()
    }

    fn cursor(&self) -> SamplerCursor {
        self.sampler.cursor()
    }

    fn next_step(&mut self, _model: &BertModel) -> Result<Drawn<ClassifiedBatch>> {
        let rows = self.sampler.next_step();
        let batch = |chosen: &Vec<usize>| {
            let texts = chosen.iter().map(|&index| &self.rows.texts[index]);
            Ok(self.collator.collate_classified(texts)?)
        };
        let batches = rows.iter().map(batch).collect::<Result<_>>()?;
        Ok(Drawn { batches, rows })
    }

    fn name_records(&self, rows: &[Vec<usize>]) -> String {
        self.rows.name_records(rows, NAMED)
    }

    fn evaluation(&self) -> &[ClassifiedBatch] {
        self.evaluation
    }
}
