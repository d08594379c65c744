//! What can go wrong in alignment.

use std::path::PathBuf;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option that cannot be.
    #[error("{field} {reason}")]
    InvalidOption {
        /// The option.
        field: &'static str,
        /// What it must be, and what it is.
        reason: String,
    },
    /// An answer without a word in it.
    #[error("{record}: the {field} answer is empty")]
    EmptyAnswer {
        /// Where it stands.
        record: String,
        /// Which answer.
        field: &'static str,
    },
    /// An answer of which no token is left after truncation.
    #[error("{record}: no token of the {field} answer is left; raise max_length")]
    NothingLeft {
        /// Where it stands.
        record: String,
        /// Which answer.
        field: &'static str,
    },
    /// Data of another kind than a method learns from.
    #[error("{record}: {method} learns from {expected}, and this is {got}")]
    UnsuitableData {
        /// Where it stands.
        record: String,
        /// The method.
        method: &'static str,
        /// What it learns from.
        expected: &'static str,
        /// What the record is.
        got: &'static str,
    },
    /// Answers or steps that all have one label.
    #[error("all {count} {what} have the label {present}: {method} needs {what} of both labels")]
    MissingClass {
        /// Answers, or steps.
        what: &'static str,
        /// The method.
        method: &'static str,
        /// How many there are.
        count: usize,
        /// The only label.
        present: bool,
    },
    /// A reward that is no number.
    #[error("the reward {reward} of sample {sample} is {value}")]
    RewardNotFinite {
        /// The reward's name.
        reward: String,
        /// The place of the sample in its batch.
        sample: usize,
        /// What it is.
        value: f32,
    },
    /// A reward function that returned another number of rewards than of samples.
    #[error("the reward {reward} returned {got} numbers for {expected} samples")]
    RewardCount {
        /// The reward's name.
        reward: String,
        /// How many there should be.
        expected: usize,
        /// How many there are.
        got: usize,
    },
    /// A reward that failed.
    #[error("the reward {reward} failed: {source}")]
    Reward {
        /// The reward's name.
        reward: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A reward that reads text, where completions have none.
    #[error("the reward {reward} reads text, and completions come without a tokenizer")]
    NoText {
        /// The reward's name.
        reward: String,
    },
    /// A head that was trained with another tokenizer.
    #[error("{}: trained with another tokenizer (digest {got}, here {expected})", path.display())]
    TokenizerMismatch {
        /// The file.
        path: PathBuf,
        /// The digest of the tokenizer at hand.
        expected: String,
        /// That of the file.
        got: String,
    },
    /// A file that is not what it should be.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What it should hold, and what it does.
        reason: String,
    },
    /// Prompts that leave no room for an answer, or are empty.
    #[error("prompt {prompt} has {tokens} tokens, and must have between 1 and {limit}")]
    PromptLength {
        /// Its place.
        prompt: usize,
        /// How many it has.
        tokens: usize,
        /// The most it may have.
        limit: usize,
    },
    /// Nothing to learn from.
    #[error("there is no {what}")]
    Empty {
        /// What there should be.
        what: &'static str,
    },
    /// Of the training.
    #[error(transparent)]
    Train(#[from] flametune_train::Error),
    /// Of the generation.
    #[error(transparent)]
    Infer(#[from] flametune_infer::Error),
    /// Of the model.
    #[error(transparent)]
    Lm(#[from] flametune_lm::Error),
    /// Of the data.
    #[error(transparent)]
    Data(#[from] flametune_data::Error),
    /// A file that could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl From<Error> for flametune_train::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Train(error) => error,
            Error::Lm(error) => Self::Lm(error),
            Error::Data(error) => Self::Data(error),
            Error::InvalidOption { field, reason } => Self::InvalidConfig { field, reason },
            other => Self::Hook {
                what: "alignment",
                source: other.into(),
            },
        }
    }
}
