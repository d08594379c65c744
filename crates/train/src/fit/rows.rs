//! A dataset as rows of token ids, with the records that they were made from.

use std::cmp::Reverse;

use flametune_data::{
    Batch, Collator, Dataset, EncodedRecord, Encoder, Error as DataError, Location, Note,
    OnInvalid, Outcome, PackStatistics, Row, best_fit_decreasing,
};

use crate::error::{Error, Result};

/// How examples become rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Each its own.
    Off,
    /// Several in a row of at most so many tokens, unseen by each other.
    To(usize),
}

/// The rows of a dataset, in memory.
///
/// # Units
/// - memory: 20 bytes a token, and 40 an example
#[derive(Debug, Clone, Default)]
pub struct TrainingRows {
    /// The rows.
    pub rows: Vec<Row>,
    /// Where the examples of each row stand.
    pub records: Vec<Vec<Location>>,
    /// Examples that were over-long and left out.
    pub dropped: usize,
    /// Examples that were cut.
    pub truncated: usize,
    /// Examples that cannot be trained on and were skipped, because the dataset says so.
    pub skipped: usize,
    /// Examples whose trained part does not end a generation.
    pub missing_eos: usize,
}

impl TrainingRows {
    /// Reads and encodes a whole dataset.
    ///
    /// # Errors
    /// Those of reading, and of encoding with file and line, unless the dataset skips what is
    /// invalid; [`Error::NotTrainable`] for answers that are compared and texts with classes;
    /// those of packing.
    pub fn encode(dataset: &mut Dataset, encoder: &Encoder, packing: Packing) -> Result<Self> {
        let skip = dataset.options().on_invalid == OnInvalid::Skip;
        let (mut found, mut examples, mut places) = (Self::default(), Vec::new(), Vec::new());
        while let Some(sample) = dataset.next_sample() {
            let sample = sample?;
            let record = sample.at.to_string();
            match encoder.encode(&record, &sample.example) {
                Err(DataError::Record { .. }) if skip => found.skipped += 1,
                Err(error) => return Err(error.into()),
                Ok(Outcome::Dropped { .. }) => found.dropped += 1,
                Ok(Outcome::Encoded {
                    record: EncodedRecord::Sequence(example),
                    notes,
                }) => {
                    found.count(&notes);
                    examples.push(example);
                    places.push(sample.at);
                }
                Ok(Outcome::Encoded { .. }) => return Err(Error::NotTrainable { record }),
            }
        }
        let rows = match packing {
            Packing::Off => (0..examples.len()).map(|index| vec![index]).collect(),
            Packing::To(max_length) => {
                let lengths: Vec<usize> = examples.iter().map(|example| example.len()).collect();
                best_fit_decreasing(&lengths, max_length)?
            }
        };
        for indices in rows {
            let chosen = indices.iter().map(|&index| &examples[index]);
            found.rows.push(Row::from_examples(chosen));
            let chosen = indices.iter().map(|&index| places[index].clone());
            found.records.push(chosen.collect());
        }
        Ok(found)
    }

    fn count(&mut self, notes: &[Note]) {
        for note in notes {
            match note {
                Note::Truncated { .. } => self.truncated += 1,
                Note::MissingEos { .. } => self.missing_eos += 1,
                Note::DoubleBos => {}
            }
        }
    }

    /// The number of examples in the rows.
    pub fn examples(&self) -> usize {
        self.records.iter().map(Vec::len).sum()
    }

    /// The length of each row.
    pub fn lengths(&self) -> Vec<usize> {
        self.rows.iter().map(Row::len).collect()
    }

    /// How well the rows are filled.
    pub fn statistics(&self) -> PackStatistics {
        let longest = self.rows.iter().map(Row::len).max().unwrap_or(0);
        PackStatistics::of(&self.rows, longest)
    }

    /// All rows as batches of `size`, rows of similar length together.
    ///
    /// # Errors
    /// Those of [`Collator::collate`].
    pub fn batches(&self, collator: &Collator, size: usize) -> Result<Vec<Batch>> {
        let mut order: Vec<usize> = (0..self.rows.len()).collect();
        order.sort_by_key(|&index| Reverse(self.rows[index].len()));
        order
            .chunks(size.max(1))
            .map(|rows| Ok(collator.collate(rows.iter().map(|&index| &self.rows[index]))?))
            .collect()
    }

    /// Names the records of a step: the first `most`, and the number of the others.
    pub fn name_records(&self, step: &[Vec<usize>], most: usize) -> String {
        let rows = step.iter().flatten();
        let records = rows.filter_map(|&row| self.records.get(row)).flatten();
        let all: Vec<String> = records.map(Location::to_string).collect();
        match all.len().saturating_sub(most) {
            0 => all.join(", "),
            more => format!("{} and {more} more", all[..most].join(", ")),
        }
    }
}
