//! Where the batches of a run come from.

use flametune_data::{Batch, BatchSampler, Collator, SamplerCursor};
use serde::Serialize;

use super::TrainingRows;
use crate::error::Result;
use crate::objective::{Objective, Sft};

/// Records that a message names; of the others it gives the number.
const NAMED: usize = 8;

/// The micro-batches of an optimizer step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drawn<B> {
    /// The batches.
    pub batches: Vec<B>,
    /// The rows of the data that each was made of.
    pub rows: Vec<Vec<usize>>,
}

/// What a run trains on, and is measured with.
pub trait Feed<O: Objective> {
    /// Where the data stands, to be saved with a checkpoint.
    type Cursor: Serialize + Clone;

    /// Optimizer steps that go through the data once.
    fn steps_per_epoch(&self) -> usize;

    /// Where the next step begins.
    ///
    /// What is drawn after it must be a function of the cursor and of the model alone.
    fn cursor(&self) -> Self::Cursor;

    /// The micro-batches of the next step; on-policy methods ask `model` for them.
    ///
    /// # Errors
    /// When the data cannot be read or made.
    fn next_step(&mut self, model: &O::Model) -> Result<Drawn<O::Batch>>;

    /// Names some of the records that `rows` of a step were made from.
    fn name_records(&self, rows: &[Vec<usize>]) -> String;

    /// The validation data; empty for none.
    fn evaluation(&self) -> &[O::Batch];
}

/// What supervised fine-tuning trains on, and is measured with.
#[derive(Debug)]
pub struct FitData<'a> {
    /// The rows.
    pub rows: &'a TrainingRows,
    /// Which of them make which step.
    pub sampler: BatchSampler,
    /// How they become batches.
    pub collator: Collator,
    /// The validation data; empty for none.
    pub evaluation: &'a [Batch],
}

impl Feed<Sft> for FitData<'_> {
    type Cursor = SamplerCursor;

    fn steps_per_epoch(&self) -> usize {
        self.sampler.steps_per_epoch()
    }

    fn cursor(&self) -> SamplerCursor {
        self.sampler.cursor()
    }

    fn next_step(&mut self, _model: &<Sft as Objective>::Model) -> Result<Drawn<Batch>> {
        let rows = self.sampler.next_step();
        let batches = self.collator.step(&self.rows.rows, &rows)?.batches;
        Ok(Drawn { batches, rows })
    }

    fn name_records(&self, rows: &[Vec<usize>]) -> String {
        self.rows.name_records(rows, NAMED)
    }

    fn evaluation(&self) -> &[Batch] {
        self.evaluation
    }
}
