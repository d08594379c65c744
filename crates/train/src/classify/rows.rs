//! A dataset of texts with classes, in memory.

use std::cmp::Reverse;

use flametune_data::{
    ClassifiedBatch, Collator, Dataset, EncodedRecord, EncodedText, Encoder, Error as DataError,
    Location, Note, OnInvalid, Outcome,
};

use crate::error::{Error, Result};
use crate::random::mixed;

/// Encoded texts with their classes.
#[derive(Debug, Clone, Default)]
pub struct ClassifiedRows {
    /// The texts.
    pub texts: Vec<EncodedText>,
    /// Where each stands.
    pub records: Vec<Location>,
    /// Texts that were over-long and left out.
    pub dropped: usize,
    /// Texts that were cut.
    pub truncated: usize,
    /// Texts that cannot be used and were skipped, because the dataset says so.
    pub skipped: usize,
}

impl ClassifiedRows {
    /// Reads and encodes a whole dataset of texts with one of `classes` classes.
    ///
    /// # Errors
    /// Those of reading and encoding, with file and line; [`Error::NotClassified`] for a record
    /// that is no text with a class, and [`Error::ClassOutOfRange`].
    pub fn encode(dataset: &mut Dataset, encoder: &Encoder, classes: usize) -> Result<Self> {
        let skip = dataset.options().on_invalid == OnInvalid::Skip;
        let mut found = Self::default();
        while let Some(sample) = dataset.next_sample() {
            let sample = sample?;
            let record = sample.at.to_string();
            match encoder.encode(&record, &sample.example) {
                Err(DataError::Record { .. }) if skip => found.skipped += 1,
                Err(error) => return Err(error.into()),
                Ok(Outcome::Dropped { .. }) => found.dropped += 1,
                Ok(Outcome::Encoded {
                    record: EncodedRecord::Classified(text),
                    notes,
                }) => {
                    if text.label >= classes {
                        let class = text.label;
                        return Err(Error::ClassOutOfRange {
                            record,
                            class,
                            classes,
                        });
                    }
                    let cut = |note: &Note| matches!(note, Note::Truncated { .. });
                    found.truncated += usize::from(notes.iter().any(cut));
                    found.texts.push(text);
                    found.records.push(sample.at);
                }
                Ok(Outcome::Encoded { .. }) => return Err(Error::NotClassified { record }),
            }
        }
        Ok(found)
    }

    /// The number of tokens of each text.
    pub fn lengths(&self) -> Vec<usize> {
        self.texts.iter().map(|text| text.input_ids.len()).collect()
    }

    /// How many texts each class has.
    pub fn counts(&self, classes: usize) -> Vec<usize> {
        let mut counts = vec![0; classes];
        for text in &self.texts {
            if let Some(count) = counts.get_mut(text.label) {
                *count += 1;
            }
        }
        counts
    }

    /// A digest of all ids and classes, in hexadecimal digits.
    pub fn digest(&self) -> String {
        let mut digest = 0;
        for text in &self.texts {
            digest = mixed(digest, text.label as u64);
            digest = mixed(digest, text.input_ids.len() as u64);
            for &id in &text.input_ids {
                digest = mixed(digest, u64::from(id));
            }
        }
        format!("{digest:016x}")
    }

    /// All texts as batches of `size`, texts of similar length together.
    ///
    /// # Errors
    /// Those of [`Collator::collate_classified`].
    pub fn batches(&self, collator: &Collator, size: usize) -> Result<Vec<ClassifiedBatch>> {
        let mut order: Vec<usize> = (0..self.texts.len()).collect();
        order.sort_by_key(|&index| Reverse(self.texts[index].input_ids.len()));
        let batch = |rows: &[usize]| {
            let texts = rows.iter().map(|&index| &self.texts[index]);
            Ok(collator.collate_classified(texts)?)
        };
        order.chunks(size.max(1)).map(batch).collect()
    }

    /// Names the records of a step: the first `most`, and the number of the others.
    pub fn name_records(&self, step: &[Vec<usize>], most: usize) -> String {
        let rows = step.iter().flatten();
        let records = rows.filter_map(|&row| self.records.get(row));
        let all: Vec<String> = records.map(Location::to_string).collect();
        match all.len().saturating_sub(most) {
            0 => all.join(", "),
            more => format!("{} and {more} more", all[..most].join(", ")),
        }
    }
}
