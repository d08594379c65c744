//! What a run's data was, in one line.

use flametune_data::Batch;
use sha2::{Digest, Sha256};

use super::TrainingRows;

/// A SHA-256 of everything that a run reads of its data: what is trained, and what is measured.
///
/// Ids, labels, positions and segments are in it, and with them whatever made them: files, order,
/// mixture, split, tokenizer, template, truncation and packing.
///
/// # Examples
/// ```
/// use flametune_train::fit::{DataDigest, TrainingRows};
///
/// let nothing = DataDigest::new().rows(&TrainingRows::default()).finish();
/// assert_eq!(nothing.len(), 64);
/// assert_ne!(nothing, DataDigest::new().finish());
/// ```
#[derive(Debug, Clone, Default)]
pub struct DataDigest(Sha256);

impl DataDigest {
    /// A digest of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in rows.
    #[must_use]
    pub fn rows(mut self, rows: &TrainingRows) -> Self {
        self.count("rows", rows.rows.len());
        for row in &rows.rows {
            self.numbers(&row.input_ids, |x| x.to_le_bytes());
            self.numbers(&row.labels, |x| x.to_le_bytes());
            self.numbers(&row.position_ids, |x| x.to_le_bytes());
            self.numbers(&row.segment_ids, |x| x.to_le_bytes());
        }
        self
    }

    /// Takes in batches.
    #[must_use]
    pub fn batches(mut self, batches: &[Batch]) -> Self {
        self.count("batches", batches.len());
        for batch in batches {
            self.count("seq", batch.seq);
            self.numbers(&batch.input_ids, |x| x.to_le_bytes());
            self.numbers(&batch.labels, |x| x.to_le_bytes());
            self.numbers(&batch.position_ids, |x| x.to_le_bytes());
            let segments = batch.segment_ids.as_deref().unwrap_or_default();
            self.numbers(segments, |x| x.to_le_bytes());
        }
        self
    }

    /// Takes in a text, such as what a run of another kind was made from.
    #[must_use]
    pub fn text(mut self, text: &str) -> Self {
        self.count("text", text.len());
        self.0.update(text);
        self
    }

    /// The digest, in hexadecimal digits.
    pub fn finish(self) -> String {
        use std::fmt::Write;
        let mut text = String::with_capacity(64);
        for byte in self.0.finalize() {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
        }
        text
    }

    /// What comes next and how much, so that no two inputs run into each other.
    fn count(&mut self, what: &str, count: usize) {
        self.0.update(what);
        self.0.update((count as u64).to_le_bytes());
    }

    fn numbers<T: Copy, const N: usize>(&mut self, numbers: &[T], bytes: impl Fn(T) -> [u8; N]) {
        self.0.update((numbers.len() as u64).to_le_bytes());
        for &number in numbers {
            self.0.update(bytes(number));
        }
    }
}

#[cfg(test)]
mod tests {
    use flametune_data::{EncodedExample, Row};

    use super::*;

    fn rows(examples: &[(&[u32], &[i64])]) -> TrainingRows {
        let examples = examples.iter().map(|(ids, labels)| EncodedExample {
            input_ids: ids.to_vec(),
            labels: labels.to_vec(),
        });
        TrainingRows {
            rows: examples.map(|example| Row::from(&example)).collect(),
            ..TrainingRows::default()
        }
    }

    #[test]
    fn whatever_is_trained_changes_it() {
        let all = [
            rows(&[(&[1, 2, 3], &[-100, 2, 3])]),
            rows(&[(&[1, 2, 3], &[-100, 2, -100])]),
            rows(&[(&[1, 2, 4], &[-100, 2, 3])]),
            rows(&[(&[1, 2], &[-100, 2]), (&[3], &[3])]),
            rows(&[]),
        ];
        let mut digests: Vec<String> = all
            .iter()
            .map(|rows| DataDigest::new().rows(rows).finish())
            .collect();
        let first = &all[0];
        let collator = flametune_data::Collator::new(0, 1).unwrap();
        let batches = first.batches(&collator, 4).unwrap();
        digests.push(DataDigest::new().rows(first).batches(&batches).finish());
        digests.push(DataDigest::new().rows(first).text("prompt").finish());
        let again = DataDigest::new().rows(&all[0].clone()).finish();
        assert_eq!(again, digests[0]);
        digests.sort();
        digests.dedup();
        assert_eq!(digests.len(), 7);
    }
}
