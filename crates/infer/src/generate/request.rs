//! What goes into a generation and what comes out.

use crate::logprobs::TokenLogprobs;
use crate::params::SamplingParams;

/// One prompt to continue.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The tokens to continue, at least one.
    pub prompt: Vec<u32>,
    /// How tokens are chosen and when the output ends.
    pub params: SamplingParams,
    /// Tells apart requests with the same seed: each index draws numbers of its own.
    pub index: u64,
    /// Whether to report log-probabilities, and of how many alternatives to each chosen token.
    pub logprobs: Option<usize>,
}

impl Request {
    /// A request with index 0 and no log-probabilities.
    #[must_use]
    pub fn new(prompt: Vec<u32>, params: SamplingParams) -> Self {
        Self {
            prompt,
            params,
            index: 0,
            logprobs: None,
        }
    }

    /// Draws the numbers of another index, for several samples of one prompt and seed.
    #[must_use]
    pub fn with_index(mut self, index: u64) -> Self {
        self.index = index;
        self
    }

    /// Reports the log-probability of each chosen token and of the `top` most likely ones.
    #[must_use]
    pub fn with_logprobs(mut self, top: usize) -> Self {
        self.logprobs = Some(top);
        self
    }
}

/// Why an output ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// `max_tokens` tokens were generated.
    Length,
    /// This token of `stop_token_ids` was chosen; it is not part of the output.
    StopToken(u32),
    /// The caller asked to stop, for example at a stop string.
    Stopped,
    /// Prompt and output fill the model's context.
    ContextFull,
}

/// The continuation of one prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// The generated tokens, without the stop token.
    pub tokens: Vec<u32>,
    /// Why there are no more.
    pub finish_reason: FinishReason,
    /// If asked for: one entry for each of `tokens`, then one for the stop token if there is one.
    pub logprobs: Vec<TokenLogprobs>,
}

/// What happens while a batch is generated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event<'a> {
    /// A request has one more token; stop tokens are not reported.
    Token {
        /// Position of the request in the batch.
        request: usize,
        /// The token.
        token: u32,
        /// Its log-probability and alternatives, if asked for.
        logprobs: Option<&'a TokenLogprobs>,
    },
    /// A request is done; what the callback returns is of no account.
    Finished {
        /// Position of the request in the batch.
        request: usize,
        /// Why.
        reason: FinishReason,
    },
}

/// What the callback wants after a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Control {
    /// Go on with this request.
    Continue,
    /// End this request; the others go on.
    Stop,
}
