//! What can go wrong while sampling and generating.

use std::path::PathBuf;

/// Result of this crate's fallible operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the generation engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A sampling parameter is outside its range.
    #[error("{field} must be {expected}, got {got}")]
    InvalidParam {
        /// Name of the parameter, as it is spelled in [`SamplingParams`](crate::SamplingParams).
        field: &'static str,
        /// The values that are accepted.
        expected: &'static str,
        /// The value that was given.
        got: String,
    },
    /// A parameter names a token id that the model does not have.
    #[error("{field} names token {id}, but the vocabulary has {vocab_size} tokens")]
    UnknownToken {
        /// Name of the parameter.
        field: &'static str,
        /// The offending id.
        id: u32,
        /// Number of logits the model returns.
        vocab_size: usize,
    },
    /// A prompt without a token: there is nothing to continue.
    #[error("request {request}: the prompt is empty")]
    EmptyPrompt {
        /// Position of the request in the batch.
        request: usize,
    },
    /// A prompt that fills the model's context, so that no token can follow it.
    #[error(
        "request {request}: a prompt of {len} tokens leaves no room for an answer in a context of {max_context}"
    )]
    PromptTooLong {
        /// Position of the request in the batch.
        request: usize,
        /// Tokens in the prompt.
        len: usize,
        /// The model's context length.
        max_context: usize,
    },
    /// A text that is longer than the encoder reads.
    #[error("text {request}: {len} tokens are more than the {max_tokens} that the model reads")]
    EmbeddingTooLong {
        /// Position of the text in the call.
        request: usize,
        /// Its tokens.
        len: usize,
        /// The most tokens of a text.
        max_tokens: usize,
    },
    /// A prompt token that the model does not have.
    #[error(
        "request {request}: token {id} at position {position} is outside the vocabulary of {vocab_size}"
    )]
    PromptTokenOutOfRange {
        /// Position of the request in the batch.
        request: usize,
        /// Index in the prompt.
        position: usize,
        /// The offending id.
        id: u32,
        /// Number of logits the model returns.
        vocab_size: usize,
    },
    /// The model returned a logit that is NaN or positive infinity.
    #[error("logit of token {id} is {value} at generation step {step}")]
    NonFiniteLogit {
        /// Number of tokens generated before this step.
        step: usize,
        /// Token whose logit is unusable.
        id: usize,
        /// The value found.
        value: f32,
    },
    /// Bans and biases removed every token.
    #[error("no token is left to choose from at generation step {step}")]
    NoCandidate {
        /// Number of tokens generated before this step.
        step: usize,
    },
    /// The model returned another number of logits than rows times vocabulary.
    #[error("the model returned {got} logits where {expected} were expected")]
    LogitCount {
        /// Rows times vocabulary.
        expected: usize,
        /// Number of logits.
        got: usize,
    },
    /// A stop string without a character would match everywhere.
    #[error("stop string {index} is empty")]
    EmptyStopString {
        /// Position in the list of stop strings.
        index: usize,
    },
    /// A request for an adapter that nobody has loaded.
    #[error("there is no adapter {name:?}; loaded are {known:?}")]
    UnknownAdapter {
        /// The name asked for.
        name: String,
        /// Some of the names there are.
        known: Vec<String>,
    },
    /// An adapter that does not fit beside those in use.
    #[error(
        "adapter {name:?} takes {bytes} bytes, but of the {budget} bytes for adapters {in_use} are in use"
    )]
    AdapterBudget {
        /// The adapter.
        name: String,
        /// What it takes.
        bytes: usize,
        /// The bytes that adapters may take.
        budget: usize,
        /// What adapters take that cannot leave now.
        in_use: usize,
    },
    /// The folder of an adapter holds something else than when it was loaded.
    #[error("adapter {name:?} has changed in {} since it was loaded; load it again", folder.display())]
    AdapterChanged {
        /// The adapter.
        name: String,
        /// Where it lies.
        folder: PathBuf,
    },
    /// An adapter that had left memory could not be read again.
    #[error("adapter {name:?} could not be read again: {reason}")]
    AdapterLost {
        /// The adapter.
        name: String,
        /// What went wrong.
        reason: String,
    },
    /// Too many requests wait already.
    #[error("{waiting} requests are waiting, of {limit} at most")]
    QueueFull {
        /// How many wait.
        waiting: usize,
        /// How many may.
        limit: usize,
    },
    /// The time of a request has run out.
    #[error("the deadline passed after {generated} tokens")]
    DeadlineExceeded {
        /// Tokens generated until then.
        generated: usize,
    },
    /// A constraint on the output that cannot be followed.
    #[error("guided output: {reason}")]
    Guide {
        /// What went wrong.
        reason: String,
    },
    /// A draft model with another vocabulary.
    #[error("the draft model knows {got} tokens where the model knows {expected}")]
    DraftVocabulary {
        /// The model's.
        expected: usize,
        /// The draft's.
        got: usize,
    },
    /// A step that the model could not make; every request in it fails.
    #[error("a step of the engine failed: {reason}")]
    StepFailed {
        /// What the model reported.
        reason: String,
    },
    /// The engine takes no more requests, or ended while one was running.
    #[error("the engine has stopped")]
    EngineStopped,
    /// The system gave no thread.
    #[error("cannot start a thread")]
    Thread {
        /// What the system said.
        source: std::io::Error,
    },
    /// What the model reports.
    #[error(transparent)]
    Lm(#[from] flametune_lm::Error),
    /// What an adapter's folder or name is refused for.
    #[error(transparent)]
    Peft(#[from] flametune_peft::Error),
}
