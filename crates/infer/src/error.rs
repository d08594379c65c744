//! What can go wrong while sampling and generating.

/// Result of this crate's fallible operations.
pub type Result<T> = std::result::Result<T, Error>;

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
    /// What the model reports.
    #[error(transparent)]
    Lm(#[from] flametune_lm::Error),
}
