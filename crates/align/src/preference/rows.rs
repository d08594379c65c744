//! A dataset of answers that are compared or judged, encoded and checked.

use flametune_data::{
    Content, Dataset, EncodedJudged, EncodedPair, EncodedRecord, EncodedSteps, Encoder,
    Error as DataError, Example, IGNORE_INDEX, Location, Message, Note, OnInvalid, Outcome,
};
use xxhash_rust::xxh3::Xxh3;

use crate::error::{Error, Result};

/// Encoded answers of one kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Answers {
    /// Two answers to each prompt, the first preferred.
    Pairs(Vec<EncodedPair>),
    /// One answer to each prompt, wanted or not.
    Judged(Vec<EncodedJudged>),
    /// Answers in steps, each right or wrong.
    Steps(Vec<EncodedSteps>),
}

impl Answers {
    /// How many pairs, judged answers or answers in steps there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Pairs(pairs) => pairs.len(),
            Self::Judged(judged) => judged.len(),
            Self::Steps(answers) => answers.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The answers of a dataset, in memory, with what they were made from.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerRows {
    /// The answers.
    pub answers: Answers,
    /// Where each stands.
    pub records: Vec<Location>,
    /// Records that were over-long and left out.
    pub dropped: usize,
    /// Records that were cut.
    pub truncated: usize,
    /// Records that cannot be used and were skipped, because the dataset says so.
    pub skipped: usize,
}

/// What a method learns from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pairs,
    Judged,
    Steps,
}

impl AnswerRows {
    /// Reads and encodes a dataset of pairs for `method`, a name in messages.
    ///
    /// # Errors
    /// Those of reading and encoding; [`Error::UnsuitableData`] for records of another kind;
    /// [`Error::EmptyAnswer`], [`Error::NothingLeft`]; [`Error::Empty`]. Records that cannot be used
    /// are left out where the dataset says so.
    pub fn pairs(dataset: &mut Dataset, encoder: &Encoder, method: &'static str) -> Result<Self> {
        Self::read(dataset, encoder, method, Kind::Pairs)
    }

    /// Reads and encodes a dataset of judged answers; of pairs, the chosen answer is wanted and the
    /// other is not.
    ///
    /// # Errors
    /// As [`pairs`](Self::pairs), and [`Error::MissingClass`] when all answers have one label.
    pub fn judged(dataset: &mut Dataset, encoder: &Encoder, method: &'static str) -> Result<Self> {
        let rows = Self::read(dataset, encoder, method, Kind::Judged)?;
        rows.check_classes(method)?;
        Ok(rows)
    }

    /// Reads and encodes a dataset of answers in steps.
    ///
    /// # Errors
    /// As [`pairs`](Self::pairs), and [`Error::MissingClass`] when all steps have one label.
    pub fn steps(dataset: &mut Dataset, encoder: &Encoder, method: &'static str) -> Result<Self> {
        let rows = Self::read(dataset, encoder, method, Kind::Steps)?;
        rows.check_classes(method)?;
        Ok(rows)
    }

    fn read(
        dataset: &mut Dataset,
        encoder: &Encoder,
        method: &'static str,
        kind: Kind,
    ) -> Result<Self> {
        let skip = dataset.options().on_invalid == OnInvalid::Skip;
        let (mut pairs, mut judged, mut steps) = (Vec::new(), Vec::new(), Vec::new());
        let mut rows = Self {
            answers: Answers::Pairs(Vec::new()),
            records: Vec::new(),
            dropped: 0,
            truncated: 0,
            skipped: 0,
        };
        while let Some(sample) = dataset.next_sample() {
            let sample = sample?;
            let record = sample.at.to_string();
            let encoded = check_words(&record, &sample.example)
                .and_then(|()| Ok(encoder.encode(&record, &sample.example)?));
            let (found, notes) = match encoded {
                Err(Error::Data(DataError::Record { .. }) | Error::EmptyAnswer { .. }) if skip => {
                    rows.skipped += 1;
                    continue;
                }
                Err(error) => return Err(error),
                Ok(Outcome::Dropped { .. }) => {
                    rows.dropped += 1;
                    continue;
                }
                Ok(Outcome::Encoded { record, notes }) => (record, notes),
            };
            let cut = |note: &Note| matches!(note, Note::Truncated { .. });
            rows.truncated += usize::from(notes.iter().any(cut));
            match (found, kind) {
                (EncodedRecord::Pair(pair), Kind::Pairs | Kind::Judged) => {
                    check_left(&record, "chosen", &pair.chosen.labels)?;
                    check_left(&record, "rejected", &pair.rejected.labels)?;
                    if kind == Kind::Pairs {
                        pairs.push(pair);
                    } else {
                        let prompt_tokens = pair.prompt_tokens;
                        for (example, label) in [(pair.chosen, true), (pair.rejected, false)] {
                            judged.push(EncodedJudged {
                                example,
                                prompt_tokens,
                                label,
                            });
                        }
                        rows.records.push(sample.at.clone());
                    }
                }
                (EncodedRecord::Judged(answer), Kind::Judged) => {
                    check_left(&record, "judged", &answer.example.labels)?;
                    judged.push(answer);
                }
                (EncodedRecord::Stepwise(answer), Kind::Steps) => steps.push(answer),
                (other, kind) => return Err(unsuitable(record, method, &other, kind)),
            }
            rows.records.push(sample.at);
        }
        rows.answers = match kind {
            Kind::Pairs => Answers::Pairs(pairs),
            Kind::Judged => Answers::Judged(judged),
            Kind::Steps => Answers::Steps(steps),
        };
        match rows.answers.is_empty() {
            true => Err(Error::Empty {
                what: "answer to learn from",
            }),
            false => Ok(rows),
        }
    }

    fn check_classes(&self, method: &'static str) -> Result<()> {
        let (what, labels): (_, Vec<bool>) = match &self.answers {
            Answers::Pairs(_) => return Ok(()),
            Answers::Judged(judged) => ("answers", judged.iter().map(|a| a.label).collect()),
            Answers::Steps(answers) => {
                let labels = answers.iter().flat_map(|answer| &answer.labels);
                ("steps", labels.copied().collect())
            }
        };
        let wanted = labels.iter().filter(|label| **label).count();
        match wanted == 0 || wanted == labels.len() {
            true => Err(Error::MissingClass {
                what,
                method,
                count: labels.len(),
                present: wanted > 0,
            }),
            false => Ok(()),
        }
    }

    /// The length of the longest sequence of each pair or answer.
    pub fn lengths(&self) -> Vec<usize> {
        match &self.answers {
            Answers::Pairs(pairs) => pairs
                .iter()
                .map(|pair| pair.chosen.len().max(pair.rejected.len()))
                .collect(),
            Answers::Judged(judged) => judged.iter().map(|answer| answer.example.len()).collect(),
            Answers::Steps(answers) => {
                let lengths = answers.iter().map(|answer| answer.input_ids.len());
                lengths.collect()
            }
        }
    }

    /// A digest of all ids, labels and judgements, in hexadecimal digits.
    pub fn digest(&self) -> String {
        let mut hash = Xxh3::new();
        let mut add = |ids: &[u32], prompt: usize, label: u8| {
            hash.update(&prompt.to_le_bytes());
            hash.update(&ids.len().to_le_bytes());
            ids.iter().for_each(|id| hash.update(&id.to_le_bytes()));
            hash.update(&[label]);
        };
        match &self.answers {
            Answers::Pairs(pairs) => {
                for pair in pairs {
                    add(&pair.chosen.input_ids, pair.prompt_tokens, 2);
                    add(&pair.rejected.input_ids, pair.prompt_tokens, 3);
                }
            }
            Answers::Judged(judged) => {
                for answer in judged {
                    let ids = &answer.example.input_ids;
                    add(ids, answer.prompt_tokens, u8::from(answer.label));
                }
            }
            Answers::Steps(answers) => {
                for answer in answers {
                    for (end, label) in answer.ends.iter().zip(&answer.labels) {
                        add(&answer.input_ids, *end, u8::from(*label));
                    }
                }
            }
        }
        format!("{:016x}", hash.digest())
    }

    /// Names the records of a step: the first `most`, and the number of the others.
    pub fn name_records(&self, step: &[Vec<usize>], most: usize) -> String {
        let chosen = step.iter().flatten();
        let records = chosen.filter_map(|&index| self.records.get(index));
        let all: Vec<String> = records.map(Location::to_string).collect();
        match all.len().saturating_sub(most) {
            0 => all.join(", "),
            more => format!("{} and {more} more", all[..most].join(", ")),
        }
    }
}

/// Every answer must say something: a template would make tokens of an empty one.
fn check_words(record: &str, example: &Example) -> Result<()> {
    let answers = match example {
        Example::Preference {
            chosen, rejected, ..
        } => vec![("chosen", chosen), ("rejected", rejected)],
        Example::Judged { completion, .. } => vec![("judged", completion)],
        _ => Vec::new(),
    };
    let empty = answers
        .into_iter()
        .find(|(_, messages)| messages.iter().all(says_nothing));
    match empty {
        None => Ok(()),
        Some((field, _)) => Err(Error::EmptyAnswer {
            record: record.to_owned(),
            field,
        }),
    }
}

fn says_nothing(message: &Message) -> bool {
    let blank = match &message.content {
        Content::Absent | Content::Null => true,
        Content::Text(text) => text.trim().is_empty(),
        Content::Parts(parts) => parts.is_empty(),
    };
    blank && message.tool_calls.is_none()
}

fn check_left(record: &str, field: &'static str, labels: &[i64]) -> Result<()> {
    match labels.iter().skip(1).any(|label| *label != IGNORE_INDEX) {
        true => Ok(()),
        false => Err(Error::NothingLeft {
            record: record.to_owned(),
            field,
        }),
    }
}

fn unsuitable(record: String, method: &'static str, got: &EncodedRecord, kind: Kind) -> Error {
    Error::UnsuitableData {
        record,
        method,
        expected: match kind {
            Kind::Pairs => "pairs of answers (chosen and rejected)",
            Kind::Judged => "answers with a label (wanted or not)",
            Kind::Steps => "answers in steps (prompt, completions, labels)",
        },
        got: match got {
            EncodedRecord::Sequence(_) => "a text or conversation without a comparison",
            EncodedRecord::Pair(_) => "a pair of answers",
            EncodedRecord::Judged(_) => "a single answer with a label",
            EncodedRecord::Stepwise(_) => "an answer in steps",
            EncodedRecord::Classified(_) => "a text with a class",
        },
    }
}
