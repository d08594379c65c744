//! Answers in a batch, padded or packed, and their log-probabilities.

use std::ops::Range;

use burn::tensor::{Device, Int, Tensor, TensorData};
use flametune_data::{Batch, Collator, EncodedExample, IGNORE_INDEX, Row, best_fit_decreasing};
use flametune_kernels::LogitOptions;
use flametune_lm::{CausalLm, TokenBatch};
use flametune_peft::AdapterPass;
use flametune_train::{next_token_labels, token_batch};

use crate::error::Result;
use crate::host::{constant, count, f32_of};

/// A prompt with an answer.
#[derive(Debug, Clone, Copy)]
pub struct Sequence<'a> {
    /// The ids; those of the answer have labels.
    pub example: &'a EncodedExample,
    /// Whether the log-probabilities of the prompt are needed too.
    pub with_prompt: bool,
}

/// Which tokens of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Those of the answer.
    Answer,
    /// All but the first, which nothing comes before.
    Whole,
}

/// Sequences in a batch, one a row or several, and where their tokens stand.
///
/// Packed sequences do not see each other; what is computed of one is the same either way.
///
/// # Examples
/// ```
/// use flametune_align::{Sequence, SequenceBatch};
/// use flametune_data::{Collator, EncodedExample};
///
/// let answer = |ids: &[u32], from: usize| {
///     let label = |(at, &id): (usize, &u32)| if at < from { -100 } else { i64::from(id) };
///     let labels = ids.iter().enumerate().map(label).collect();
///     EncodedExample { input_ids: ids.to_vec(), labels }
/// };
/// let (a, b) = (answer(&[5, 6, 7, 8], 2), answer(&[5, 6, 9], 2));
/// let sequences = [&a, &b].map(|example| Sequence { example, with_prompt: false });
/// let batch = SequenceBatch::new(&sequences, &Collator::new(0, 1)?, None)?;
/// assert_eq!(batch.lengths(), [2, 1]);
/// # Ok::<(), flametune_align::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct SequenceBatch {
    batch: Batch,
    tokens: TokenBatch,
    labels: Vec<i64>,
    /// For each sequence, the places in the flat batch that predict its tokens.
    places: Vec<Range<usize>>,
    /// For each sequence, how many of its places predict the prompt.
    prompts: Vec<usize>,
}

impl SequenceBatch {
    /// Puts sequences into a batch; with `packing`, several in a row of at most so many tokens.
    ///
    /// # Errors
    /// Those of collating: no sequence, or none with a token to predict; a sequence longer than a
    /// row.
    pub fn new(
        sequences: &[Sequence<'_>],
        collator: &Collator,
        packing: Option<usize>,
    ) -> Result<Self> {
        let examples: Vec<EncodedExample> = sequences.iter().map(labelled).collect();
        let lengths: Vec<usize> = examples.iter().map(EncodedExample::len).collect();
        let rows: Vec<Vec<usize>> = match packing {
            None => (0..examples.len()).map(|index| vec![index]).collect(),
            Some(limit) => best_fit_decreasing(&lengths, limit)?,
        };
        let packed: Vec<Row> = rows
            .iter()
            .map(|row| Row::from_examples(row.iter().map(|&index| &examples[index])))
            .collect();
        let batch = collator.collate(&packed)?;
        let mut places = vec![0..0; examples.len()];
        for (row, members) in rows.iter().enumerate() {
            let mut start = row * batch.seq;
            for &index in members {
                places[index] = start..start + lengths[index].saturating_sub(1);
                start += lengths[index];
            }
        }
        let labels = next_token_labels(&batch);
        let prompts = sequences.iter().map(|sequence| {
            let targets = sequence.example.labels.iter().skip(1);
            targets.take_while(|label| **label == IGNORE_INDEX).count()
        });
        Ok(Self {
            tokens: token_batch(&batch)?,
            labels,
            prompts: prompts.collect(),
            places,
            batch,
        })
    }

    /// The ids as the model takes them.
    pub fn tokens(&self) -> &TokenBatch {
        &self.tokens
    }

    /// The target of each place, `[batch·seq]`.
    pub fn labels(&self) -> &[i64] {
        &self.labels
    }

    /// The number of sequences.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is no sequence.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The number of tokens of each answer.
    pub fn lengths(&self) -> Vec<usize> {
        (0..self.len())
            .map(|index| self.range(index, Part::Answer).len())
            .collect()
    }

    /// Slots that go through the model, padding included.
    pub fn slots(&self) -> usize {
        self.batch.input_ids.len()
    }

    /// The place of each sequence's last token.
    pub fn last_places(&self) -> Vec<usize> {
        self.places.iter().map(|range| range.end).collect()
    }

    /// The places that predict a part of a sequence.
    pub fn range(&self, sequence: usize, part: Part) -> Range<usize> {
        let whole = &self.places[sequence];
        match part {
            Part::Whole => whole.clone(),
            Part::Answer => (whole.start + self.prompts[sequence]).min(whole.end)..whole.end,
        }
    }

    /// The log-probability of the target of each place.
    ///
    /// # Shapes
    /// - `hidden`: `[batch, seq, d_model]`; returns `[batch·seq]`, f32, 0 where there is no target
    ///
    /// # Errors
    /// Those of [`CausalLm::logps`].
    pub fn logps(
        &self,
        model: &CausalLm,
        hidden: Tensor<3>,
        pass: &AdapterPass,
    ) -> flametune_lm::Result<Tensor<1>> {
        let logps = model.logps(hidden, &self.labels, &LogitOptions::default(), pass)?;
        let [batch, seq] = logps.dims();
        Ok(logps.reshape([batch * seq]))
    }

    /// The values at the places of all answers, one answer after the other.
    ///
    /// # Shapes
    /// - `values`: `[batch·seq]`; returns `[tokens]`
    #[must_use]
    pub fn of_answers(&self, values: Tensor<1>) -> Tensor<1> {
        let places: Vec<usize> = (0..self.len())
            .flat_map(|index| self.range(index, Part::Answer))
            .collect();
        let places = indices(&places, &values.device());
        values.select(0, places)
    }

    /// The sum of the values of each sequence.
    ///
    /// # Shapes
    /// - `values`: `[batch·seq]`; returns `[sequences]`
    #[must_use]
    pub fn sums(&self, values: &Tensor<1>, part: Part) -> Tensor<1> {
        let each = (0..self.len()).map(|index| {
            let range = self.range(index, part);
            match range.is_empty() {
                true => values.clone().narrow(0, 0, 1) * 0.0,
                false => values.clone().narrow(0, range.start, range.len()).sum(),
            }
        });
        Tensor::cat(each.collect(), 0)
    }

    /// The mean of the values of each answer.
    ///
    /// # Shapes
    /// - `values`: `[batch·seq]`; returns `[sequences]`
    #[must_use]
    pub fn means(&self, values: &Tensor<1>) -> Tensor<1> {
        let inverse = self.lengths();
        let inverse = inverse.iter().map(|&len| f32_of(1.0 / count(len.max(1))));
        let inverse = constant(inverse.collect(), &values.device());
        self.sums(values, Part::Answer) * inverse
    }
}

/// The example with labels at all tokens whose log-probabilities are needed.
fn labelled(sequence: &Sequence<'_>) -> EncodedExample {
    let mut example = sequence.example.clone();
    if sequence.with_prompt {
        example.labels = example.input_ids.iter().map(|&id| i64::from(id)).collect();
    }
    example
}

/// Places as a tensor.
pub(crate) fn indices(places: &[usize], device: &Device) -> Tensor<1, Int> {
    let places: Vec<i64> = places
        .iter()
        .map(|&place| i64::try_from(place).unwrap_or(i64::MAX))
        .collect();
    let len = places.len();
    Tensor::from_data(TensorData::new(places, [len]), device)
}
