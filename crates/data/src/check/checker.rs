//! Encoding a dataset to see what comes out.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::report::{CheckReport, RecordError};
use super::{LengthHistogram, Preview};
use crate::encode::{EncodedRecord, Encoder, Note, Outcome};
use crate::error::{Error, Result};
use crate::example::Example;

/// What a check looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckOptions {
    /// Number of errors that are kept with their message.
    pub max_errors: usize,
    /// Number of records that are shown with what is trained.
    pub previews: usize,
    /// Rows of the model's embedding, where it is known.
    pub vocab_size: Option<usize>,
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self {
            max_errors: 10,
            previews: 3,
            vocab_size: None,
        }
    }
}

/// Takes records one at a time and counts what becomes of them.
#[derive(Debug)]
pub struct Checker<'a> {
    encoder: &'a Encoder,
    options: CheckOptions,
    report: CheckReport,
    lengths: Vec<usize>,
    seen: HashSet<u64>,
}

/// Checks every record of a dataset; a record is named by its number, from 1.
///
/// # Examples
/// ```
/// use flametune_data::{CheckOptions, EncodeOptions, Encoder, Example, Tokenizer, check};
///
/// # fn main() -> flametune_data::Result<()> {
/// let json = r#"{"added_tokens": [], "pre_tokenizer": {"type": "Whitespace"},
///   "model": {"type": "WordLevel", "unk_token": "?", "vocab": {"?": 0, "two": 1, "plus": 2, "four": 3}}}"#;
/// let tokenizer = Tokenizer::from_json("tokenizer.json", json.as_bytes())?;
/// let options = EncodeOptions { append_eos: false, ..EncodeOptions::default() };
/// let encoder = Encoder::new(tokenizer, None, options)?;
/// let texts = ["two plus two", "two plus two", ""];
/// let examples = texts.map(|text| Ok(Example::Text(text.to_owned())));
/// let report = check(&encoder, CheckOptions::default(), examples);
/// assert_eq!((report.records, report.encoded, report.duplicates), (3, 2, 1));
/// assert_eq!(report.errors[0].message, "record 3: text is empty");
/// # Ok(())
/// # }
/// ```
pub fn check(
    encoder: &Encoder,
    options: CheckOptions,
    examples: impl IntoIterator<Item = Result<Example>>,
) -> CheckReport {
    let mut checker = Checker::new(encoder, options);
    for (number, example) in (1_usize..).zip(examples) {
        match example {
            Ok(example) => checker.add(&format!("record {number}"), &example),
            Err(error) => checker.add_error(&error),
        }
    }
    checker.finish()
}

impl<'a> Checker<'a> {
    /// A checker that has seen no record.
    pub fn new(encoder: &'a Encoder, options: CheckOptions) -> Self {
        Self {
            encoder,
            options,
            report: CheckReport::default(),
            lengths: Vec::new(),
            seen: HashSet::new(),
        }
    }

    /// Encodes a record; `record` stands for it, such as `train.jsonl:17`.
    pub fn add(&mut self, record: &str, example: &Example) {
        match self.encoder.encode(record, example) {
            Err(error) => self.fail(&error),
            Ok(Outcome::Dropped { .. }) => {
                self.report.records += 1;
                self.report.dropped += 1;
            }
            Ok(Outcome::Encoded {
                record: encoded,
                notes,
            }) => {
                self.report.records += 1;
                self.report.encoded += 1;
                self.count_notes(&notes);
                self.count_tokens(&encoded);
                self.preview(record, &encoded);
            }
        }
    }

    /// Counts a record that could not be read.
    pub fn add_error(&mut self, error: &Error) {
        self.report.unreadable += 1;
        self.fail(error);
    }

    fn fail(&mut self, error: &Error) {
        let cause = match error {
            Error::Record { source, .. } => source,
            other => other,
        };
        match cause {
            Error::TooLong { .. } => self.report.too_long += 1,
            Error::DoubleBos { .. } => self.report.double_bos += 1,
            Error::MissingEos { .. } => self.report.missing_eos += 1,
            Error::NothingTrained { .. }
            | Error::AssistantMaskEmpty { .. }
            | Error::AssistantMaskFull { .. } => self.report.untrained += 1,
            _ => {}
        }
        self.report.records += 1;
        self.report.failed += 1;
        if self.report.errors.len() < self.options.max_errors {
            let message = error.to_string();
            self.report.errors.push(RecordError { message });
        }
    }

    /// The report over all records.
    pub fn finish(self) -> CheckReport {
        CheckReport {
            lengths: LengthHistogram::new(self.lengths),
            ..self.report
        }
    }

    fn count_notes(&mut self, notes: &[Note]) {
        for note in notes {
            match note {
                Note::Truncated { tokens, kept } => {
                    self.report.truncated += 1;
                    self.report.truncated_tokens += tokens.saturating_sub(*kept);
                }
                Note::DoubleBos => self.report.double_bos += 1,
                Note::MissingEos { .. } => self.report.missing_eos += 1,
            }
        }
    }

    fn count_tokens(&mut self, encoded: &EncodedRecord) {
        let unk = self.encoder.tokenizer().special().unk.as_ref();
        let mut unknown = 0;
        for ids in encoded.sequences() {
            self.lengths.push(ids.len());
            unknown += ids
                .iter()
                .filter(|&&id| unk.is_some_and(|unk| unk.id == id))
                .count();
            if let Some(vocab_size) = self.options.vocab_size {
                let beyond = |id: &&u32| usize::try_from(**id).map_or(true, |id| id >= vocab_size);
                self.report.out_of_vocabulary += ids.iter().filter(beyond).count();
            }
        }
        self.report.unk_tokens += unknown;
        self.report.unk_records += usize::from(unknown > 0);
        for example in encoded.labelled() {
            self.report.labelled_tokens += example.len();
            self.report.supervised_tokens += example.num_supervised_tokens();
        }
        self.report.duplicates += usize::from(!self.seen.insert(digest(encoded)));
    }

    fn preview(&mut self, record: &str, encoded: &EncodedRecord) {
        if self.report.previews.len() >= self.options.previews {
            return;
        }
        let names: &[&str] = match encoded {
            EncodedRecord::Pair(_) => &[", chosen", ", rejected"],
            EncodedRecord::Judged(judged) if judged.label => &[", wanted"],
            EncodedRecord::Judged(_) => &[", unwanted"],
            _ => &[""],
        };
        for (example, name) in encoded.labelled().into_iter().zip(names) {
            let name = format!("{record}{name}");
            let preview = Preview::new(&name, example, self.encoder.tokenizer());
            // What cannot be decoded cannot be shown; it is counted all the same.
            self.report.previews.extend(preview);
        }
    }
}

/// A hash of what a record teaches.
fn digest(encoded: &EncodedRecord) -> u64 {
    let mut hasher = DefaultHasher::new();
    match encoded {
        EncodedRecord::Sequence(example) => (0, example).hash(&mut hasher),
        EncodedRecord::Pair(pair) => (1, &pair.chosen, &pair.rejected).hash(&mut hasher),
        EncodedRecord::Judged(judged) => (2, &judged.example, judged.label).hash(&mut hasher),
        EncodedRecord::Stepwise(steps) => (4, &steps.input_ids, &steps.labels).hash(&mut hasher),
        EncodedRecord::Classified(text) => (3, &text.input_ids, text.label).hash(&mut hasher),
    }
    hasher.finish()
}
