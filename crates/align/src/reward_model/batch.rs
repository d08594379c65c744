//! What a reward model scores, and what it is to say.

use flametune_data::{Collator, EncodedExample, EncodedPair, EncodedSteps};

use crate::error::{Error, Result};
use crate::preference::{AnswerRows, Answers};
use crate::sequences::{Part, Sequence, SequenceBatch};

/// What the scores of a batch are compared with.
#[derive(Debug, Clone, PartialEq)]
pub enum RewardTarget {
    /// By how much each chosen answer is better; 0 where the data does not say.
    Margins(Vec<f32>),
    /// Whether each step is right.
    Steps(Vec<bool>),
}

/// A micro-batch of pairs, chosen answers first, or of answers in steps.
#[derive(Debug, Clone)]
pub struct RewardBatch {
    /// The sequences.
    pub sequences: SequenceBatch,
    /// Where scores are read in the flat batch: at the last token of each sequence, or of each step.
    pub places: Vec<usize>,
    /// What they are compared with.
    pub target: RewardTarget,
}

impl RewardBatch {
    /// A batch of pairs.
    ///
    /// # Errors
    /// Those of [`SequenceBatch::new`].
    pub fn pairs(pairs: &[&EncodedPair], collator: &Collator) -> Result<Self> {
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
        let sequences = SequenceBatch::new(&sequences, collator, None)?;
        Ok(Self {
            places: sequences.last_places(),
            target: RewardTarget::Margins(margins.collect()),
            sequences,
        })
    }

    /// A batch of answers in steps.
    ///
    /// # Errors
    /// Those of [`SequenceBatch::new`].
    pub fn steps(answers: &[&EncodedSteps], collator: &Collator) -> Result<Self> {
        let examples: Vec<EncodedExample> = answers
            .iter()
            .map(|answer| EncodedExample {
                input_ids: answer.input_ids.clone(),
                labels: answer.input_ids.iter().map(|&id| i64::from(id)).collect(),
            })
            .collect();
        let sequences: Vec<Sequence<'_>> = examples
            .iter()
            .map(|example| Sequence {
                example,
                with_prompt: true,
            })
            .collect();
        let sequences = SequenceBatch::new(&sequences, collator, None)?;
        let places = answers.iter().enumerate().flat_map(|(index, answer)| {
            let start = sequences.range(index, Part::Whole).start;
            answer.ends.iter().map(move |end| start + end)
        });
        let labels = answers.iter().flat_map(|answer| &answer.labels);
        Ok(Self {
            places: places.collect(),
            target: RewardTarget::Steps(labels.copied().collect()),
            sequences,
        })
    }

    /// A batch of some of the answers of `rows`.
    ///
    /// # Errors
    /// [`Error::Empty`] for judged answers; those of [`SequenceBatch::new`].
    pub(super) fn of(rows: &AnswerRows, chunk: &[usize], collator: &Collator) -> Result<Self> {
        match &rows.answers {
            Answers::Pairs(pairs) => {
                let pairs: Vec<&EncodedPair> = chunk.iter().map(|&index| &pairs[index]).collect();
                Self::pairs(&pairs, collator)
            }
            Answers::Steps(answers) => {
                let answers: Vec<&EncodedSteps> =
                    chunk.iter().map(|&index| &answers[index]).collect();
                Self::steps(&answers, collator)
            }
            Answers::Judged(_) => Err(Error::Empty {
                what: "pair of answers, and no answer in steps",
            }),
        }
    }

    /// All answers of `rows` in batches of `size`.
    ///
    /// # Errors
    /// Those of [`of`](Self::of).
    pub(super) fn all(rows: &AnswerRows, size: usize, collator: &Collator) -> Result<Vec<Self>> {
        let indices: Vec<usize> = (0..rows.answers.len()).collect();
        indices
            .chunks(size.max(1))
            .map(|chunk| Self::of(rows, chunk, collator))
            .collect()
    }

    /// The number of pairs, or of steps.
    pub fn items(&self) -> usize {
        match &self.target {
            RewardTarget::Margins(margins) => margins.len(),
            RewardTarget::Steps(labels) => labels.len(),
        }
    }
}
