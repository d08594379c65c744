//! Where the batches of a reward model come from.

use flametune_data::{BatchSampler, Collator, EncodedPair, SamplerCursor};
use flametune_train::fit::{Drawn, Feed};

use super::model::RewardModel;
use super::objective::{RewardBatch, RewardTraining};
use crate::error::{Error, Result};
use crate::preference::{AnswerRows, Answers};

/// Records that a message names; of the others it gives the number.
const NAMED: usize = 8;

/// The pairs of a run.
#[derive(Debug)]
pub struct RewardFeed<'a> {
    rows: &'a AnswerRows,
    pairs: &'a [EncodedPair],
    sampler: BatchSampler,
    collator: Collator,
    evaluation: Vec<RewardBatch>,
}

impl<'a> RewardFeed<'a> {
    /// Draws the pairs of `rows` as `sampler` says.
    ///
    /// # Errors
    /// [`Error::Empty`] for judged answers.
    pub fn new(rows: &'a AnswerRows, sampler: BatchSampler, collator: Collator) -> Result<Self> {
        Ok(Self {
            rows,
            pairs: pairs(rows)?,
            sampler,
            collator,
            evaluation: Vec::new(),
        })
    }

    /// Measures with the pairs of `rows`, in batches of `size`.
    ///
    /// # Errors
    /// Those of batches.
    pub fn evaluate_with(mut self, rows: &AnswerRows, size: usize) -> Result<Self> {
        self.evaluation = batches(rows, size, &self.collator)?;
        Ok(self)
    }
}

/// All pairs in batches of `size`.
pub(super) fn batches(
    rows: &AnswerRows,
    size: usize,
    collator: &Collator,
) -> Result<Vec<RewardBatch>> {
    pairs(rows)?
        .chunks(size.max(1))
        .map(|chunk| RewardBatch::new(&chunk.iter().collect::<Vec<_>>(), collator))
        .collect()
}

pub(super) fn pairs(rows: &AnswerRows) -> Result<&[EncodedPair]> {
    match &rows.answers {
        Answers::Pairs(pairs) => Ok(pairs),
        Answers::Judged(_) => Err(Error::Empty {
            what: "pair of answers",
        }),
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
        let batch = |chunk: &Vec<usize>| {
            let pairs: Vec<&EncodedPair> = chunk.iter().map(|&index| &self.pairs[index]).collect();
            RewardBatch::new(&pairs, &self.collator)
        };
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
