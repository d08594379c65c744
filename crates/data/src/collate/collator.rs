//! From rows to a batch.

use super::{Batch, ClassifiedBatch, Step};
use crate::encode::{EncodedPair, EncodedText, IGNORE_INDEX};
use crate::error::{Error, Result};
use crate::pack::Row;
use crate::tokenizer::Tokenizer;

/// Largest multiple that rows are padded to, far above any that hardware asks for.
const MAX_MULTIPLE: usize = 1 << 16;

/// Puts rows into a rectangle.
///
/// # Examples
/// ```
/// use flametune_data::{Collator, EncodedExample, Row};
///
/// # fn main() -> flametune_data::Result<()> {
/// let row = |ids: &[u32]| {
///     let labels = ids.iter().map(|&id| i64::from(id)).collect();
///     Row::from(&EncodedExample { input_ids: ids.to_vec(), labels })
/// };
/// let batch = Collator::new(0, 4)?.collate([&row(&[5, 6, 7, 8, 9]), &row(&[5, 6])])?;
/// assert_eq!((batch.batch, batch.seq, batch.num_supervised_tokens), (2, 8, 5));
/// assert_eq!(batch.input_ids[8..], [5, 6, 0, 0, 0, 0, 0, 0]);
/// assert_eq!(batch.labels[8..], [-100, 6, -100, -100, -100, -100, -100, -100]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Collator {
    pad_id: u32,
    multiple_of: usize,
}

impl Collator {
    /// Pads with `pad_id` to the longest row, rounded up to a multiple of `multiple_of`.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a multiple of zero or above 65536.
    pub fn new(pad_id: u32, multiple_of: usize) -> Result<Self> {
        if !(1..=MAX_MULTIPLE).contains(&multiple_of) {
            return Err(Error::InvalidOption {
                option: "pad_to_multiple_of".into(),
                expected: "between 1 and 65536",
                got: multiple_of.to_string(),
            });
        }
        Ok(Self {
            pad_id,
            multiple_of,
        })
    }

    /// Pads with the tokenizer's pad token, else its EOS, else its token for the unknown, else id 0.
    ///
    /// Padding is neither seen nor trained, so any id of the vocabulary serves.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn for_tokenizer(tokenizer: &Tokenizer, multiple_of: usize) -> Result<Self> {
        let special = tokenizer.special();
        let token = special.pad.as_ref().or(special.eos.as_ref());
        let pad_id = token.or(special.unk.as_ref()).map_or(0, |token| token.id);
        Self::new(pad_id, multiple_of)
    }

    /// A batch for training.
    ///
    /// # Errors
    /// [`Error::NoExamples`] without rows, [`Error::BatchUntrained`] when no row has a target.
    pub fn collate<'a>(&self, rows: impl IntoIterator<Item = &'a Row>) -> Result<Batch> {
        let rows: Vec<&Row> = rows.into_iter().collect();
        let batch = self.pad(&rows)?;
        if batch.num_supervised_tokens == 0 {
            return Err(Error::BatchUntrained {
                rows: batch.batch,
                tokens: batch.lengths.iter().sum(),
            });
        }
        Ok(batch)
    }

    /// The batches of one optimizer step, each a list of row numbers, as [`super::BatchSampler::next_step`] gives
    /// them.
    ///
    /// # Errors
    /// As [`Self::collate`], and [`Error::NoExamples`] for a row that does not exist.
    pub fn step(&self, rows: &[Row], batches: &[Vec<usize>]) -> Result<Step> {
        let batch = |indices: &Vec<usize>| {
            let chosen: Option<Vec<&Row>> = indices.iter().map(|&index| rows.get(index)).collect();
            self.collate(chosen.ok_or(Error::NoExamples)?)
        };
        let batches: Vec<Batch> = batches.iter().map(batch).collect::<Result<_>>()?;
        let counts = batches.iter().map(|batch| batch.num_supervised_tokens);
        Ok(Step {
            num_supervised_tokens: counts.sum(),
            batches,
        })
    }

    /// A batch of pairs: of `n` pairs, the rows `0..n` are the chosen answers and `n..2n` the rejected ones.
    ///
    /// # Errors
    /// As [`Self::collate`].
    pub fn collate_pairs<'a>(
        &self,
        pairs: impl IntoIterator<Item = &'a EncodedPair>,
    ) -> Result<Batch> {
        let pairs: Vec<&EncodedPair> = pairs.into_iter().collect();
        let chosen = pairs.iter().map(|pair| Row::from(&pair.chosen));
        let rejected = pairs.iter().map(|pair| Row::from(&pair.rejected));
        let rows: Vec<Row> = chosen.chain(rejected).collect();
        self.collate(&rows)
    }

    /// A batch of texts with their classes.
    ///
    /// # Errors
    /// [`Error::NoExamples`] without texts.
    pub fn collate_classified<'a>(
        &self,
        texts: impl IntoIterator<Item = &'a EncodedText>,
    ) -> Result<ClassifiedBatch> {
        let texts: Vec<&EncodedText> = texts.into_iter().collect();
        let rows: Vec<Row> = texts
            .iter()
            .map(|text| {
                let mut row = Row::default();
                row.push(&text.input_ids, &vec![IGNORE_INDEX; text.input_ids.len()]);
                row
            })
            .collect();
        Ok(ClassifiedBatch {
            tokens: self.pad(&rows.iter().collect::<Vec<_>>())?,
            classes: texts.iter().map(|text| text.label).collect(),
        })
    }

    fn pad(&self, rows: &[&Row]) -> Result<Batch> {
        let longest = rows.iter().map(|row| row.len()).max().unwrap_or(0);
        if longest == 0 {
            return Err(Error::NoExamples);
        }
        let seq = longest.next_multiple_of(self.multiple_of);
        let packed = rows.iter().any(|row| row.segments() > 1);
        Ok(Batch {
            input_ids: padded(rows, seq, self.pad_id, |row| &row.input_ids),
            labels: padded(rows, seq, IGNORE_INDEX, |row| &row.labels),
            position_ids: padded(rows, seq, 0, |row| &row.position_ids),
            segment_ids: packed.then(|| padded(rows, seq, 0, |row| &row.segment_ids)),
            lengths: rows.iter().map(|row| row.len()).collect(),
            batch: rows.len(),
            seq,
            num_supervised_tokens: rows.iter().map(|row| row.num_supervised_tokens()).sum(),
        })
    }
}

/// One field of the rows, each filled up to `seq`.
fn padded<T: Copy>(rows: &[&Row], seq: usize, fill: T, field: impl Fn(&Row) -> &[T]) -> Vec<T> {
    let mut values = Vec::with_capacity(rows.len() * seq);
    for (index, row) in rows.iter().enumerate() {
        values.extend_from_slice(field(row));
        values.resize((index + 1) * seq, fill);
    }
    values
}
