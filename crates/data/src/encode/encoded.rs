//! What encoding an example gives.

/// The label of a token that is not trained, as in PyTorch's cross-entropy.
pub const IGNORE_INDEX: i64 = -100;

/// Token ids and what is learned of them.
///
/// `labels[t]` is `input_ids[t]` where the token is trained and [`IGNORE_INDEX`] elsewhere. Labels are aligned with
/// the ids, as in transformers: the loss shifts, so the target at position `t` is `labels[t + 1]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct EncodedExample {
    /// The ids.
    pub input_ids: Vec<u32>,
    /// The label of each id.
    pub labels: Vec<i64>,
}

impl EncodedExample {
    /// Labels the ids that are trained.
    pub(crate) fn new(input_ids: Vec<u32>, trained: &[bool]) -> Self {
        let label = |(&id, &trained): (&u32, &bool)| match trained {
            true => i64::from(id),
            false => IGNORE_INDEX,
        };
        let labels = input_ids.iter().zip(trained).map(label).collect();
        Self { input_ids, labels }
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.input_ids.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.input_ids.is_empty()
    }

    /// Number of tokens that are the target of a prediction: those with a label, without the first, which nothing
    /// comes before.
    pub fn num_supervised_tokens(&self) -> usize {
        let targets = self.labels.iter().skip(1);
        targets.filter(|&&label| label != IGNORE_INDEX).count()
    }
}

/// Two answers to one prompt. The first `prompt_tokens` ids of both are the same and not trained.
#[derive(Debug, Clone, PartialEq)]
pub struct EncodedPair {
    /// The prompt and the preferred answer.
    pub chosen: EncodedExample,
    /// The prompt and the other answer.
    pub rejected: EncodedExample,
    /// Number of ids of the prompt.
    pub prompt_tokens: usize,
    /// By how much the first is better, where the dataset says.
    pub margin: Option<f32>,
}

/// A prompt with an answer that is wanted or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedJudged {
    /// The prompt and the answer.
    pub example: EncodedExample,
    /// Number of ids of the prompt, which are not trained.
    pub prompt_tokens: usize,
    /// Whether the answer is wanted.
    pub label: bool,
}

/// A prompt with an answer in steps that are right or wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedSteps {
    /// The ids.
    pub input_ids: Vec<u32>,
    /// The place of each step's last token.
    pub ends: Vec<usize>,
    /// Whether each step is right.
    pub labels: Vec<bool>,
}

/// A text with its class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedText {
    /// The ids.
    pub input_ids: Vec<u32>,
    /// The class, from 0.
    pub label: usize,
}

/// An encoded example of any kind.
#[derive(Debug, Clone, PartialEq)]
pub enum EncodedRecord {
    /// A conversation, a completion or a text.
    Sequence(EncodedExample),
    /// Two answers compared.
    Pair(EncodedPair),
    /// An answer judged.
    Judged(EncodedJudged),
    /// An answer in steps.
    Stepwise(EncodedSteps),
    /// A text classified.
    Classified(EncodedText),
}

impl EncodedRecord {
    /// The token sequences: two of a pair, one otherwise.
    pub fn sequences(&self) -> Vec<&[u32]> {
        match self {
            Self::Sequence(example) => vec![&example.input_ids],
            Self::Pair(pair) => vec![&pair.chosen.input_ids, &pair.rejected.input_ids],
            Self::Judged(judged) => vec![&judged.example.input_ids],
            Self::Stepwise(steps) => vec![&steps.input_ids],
            Self::Classified(text) => vec![&text.input_ids],
        }
    }

    /// The sequences that have labels.
    pub fn labelled(&self) -> Vec<&EncodedExample> {
        match self {
            Self::Sequence(example) => vec![example],
            Self::Pair(pair) => vec![&pair.chosen, &pair.rejected],
            Self::Judged(judged) => vec![&judged.example],
            Self::Stepwise(_) | Self::Classified(_) => Vec::new(),
        }
    }

    /// Number of tokens of the longest sequence.
    pub fn max_len(&self) -> usize {
        let lengths = self.sequences().into_iter().map(<[u32]>::len);
        lengths.max().unwrap_or_default()
    }
}

/// Something about an encoded example that its owner should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// Tokens were cut off.
    Truncated {
        /// Number of tokens of the whole; of a pair, with the longer answer.
        tokens: usize,
        /// Number of tokens that are left.
        kept: usize,
    },
    /// The ids begin with BOS twice.
    DoubleBos,
    /// What is trained does not end with a token that ends a generation.
    MissingEos {
        /// The token that it ends with.
        last: String,
    },
}

/// What became of an example.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It was encoded.
    Encoded {
        /// The ids and labels.
        record: EncodedRecord,
        /// What should be known about them.
        notes: Vec<Note>,
    },
    /// It was over-long and left out, as [`super::Truncation::Drop`] says.
    Dropped {
        /// Number of tokens.
        tokens: usize,
        /// The limit.
        limit: usize,
    },
}

impl Outcome {
    /// The encoded example, unless it was dropped.
    pub fn record(self) -> Option<EncodedRecord> {
        match self {
            Self::Encoded { record, .. } => Some(record),
            Self::Dropped { .. } => None,
        }
    }
}
