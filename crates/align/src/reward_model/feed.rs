//! Where the batches of a reward model come from.

use flametune_data::{BatchSampler, Collator, SamplerCursor};
use flametune_train::fit::{Drawn, Feed};

use super::batch::RewardBatch;
use super::model::RewardModel;
use super::objective::RewardTraining;
use crate::error::{Error, Result};
use crate::preference::{AnswerRows, Answers};

/// Records that a message names; of the others it gives the number.
const NAMED: usize = 8;

/// The pairs, or the answers in steps, of a run.
#[derive(Debug)]
pub struct RewardFeed<'a> {
    rows: &'a AnswerRows,
    sampler: BatchSampler,
    collator: Collator,
    evaluation: Vec<RewardBatch>,
}

impl<'a> RewardFeed<'a> {
    /// Draws the answers of `rows` as `sampler` says.
    ///
    /// # Errors
    /// [`Error::Empty`] for judged answers.
    pub fn new(rows: &'a AnswerRows, sampler: BatchSampler, collator: Collator) -> Result<Self> {
        if matches!(rows.answers, Answers::Judged(_)) {
            return Err(Error::Empty {
                what: "pair of answers, and no answer in steps",
            });
        }
        Ok(Self {
            rows,
            sampler,
            collator,
            evaluation: Vec::new(),
        })
    }

    /// Measures with the answers of `rows`, in batches of `size`.
    ///
    /// # Errors
    /// Those of batches.
    pub fn evaluate_with(mut self, rows: &AnswerRows, size: usize) -> Result<Self> {
        self.evaluation = RewardBatch::all(rows, size, &self.collator)?;
        Ok(self)
    }
}

impl Feed<RewardTraining> for RewardFeed<'_> {
    type Cursor = SamplerCursor;

    fn steps_per_epoch(&self) -> usize {
        self.sampler.steps_per_epoch()
    }

    fn cursor(&self) -> SamplerCursor {
        self.sampler.cursor()
    }

    fn next_step(&mut self, _model: &RewardModel) -> flametune_train::Result<Drawn<RewardBatch>> {
        let rows = self.sampler.next_step();
        let batch = |chunk: &Vec<usize>| RewardBatch::of(self.rows, chunk, &self.collator);
        let batches = rows.iter().map(batch).collect::<Result<_>>()?;
        Ok(Drawn { batches, rows })
    }

    fn name_records(&self, rows: &[Vec<usize>]) -> String {
        self.rows.name_records(rows, NAMED)
    }

    fn evaluation(&self) -> &[RewardBatch] {
        &self.evaluation
    }
}
