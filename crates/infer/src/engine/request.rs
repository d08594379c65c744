//! What is asked of an engine, and what it answers.

use std::fmt;
use std::time::{Duration, Instant};

use crate::generate::FinishReason;
use crate::guide::Guide;
use crate::logprobs::TokenLogprobs;
use crate::params::SamplingParams;

/// Looks at every token of a choice, given as `(choice, token)`, and says whether it is the last.
///
/// This is where text comes in: a caller that stops at strings decodes the tokens here, with an
/// incremental decoder and [`StopStrings`](crate::StopStrings) of its own for each choice. It runs
/// on the engine's thread, so it must be quick. The token at which it says so is part of the
/// output; stop tokens are not shown to it.
pub type Until = Box<dyn FnMut(usize, u32) -> bool + Send>;

/// A prompt to continue.
pub struct GenerateRequest {
    /// The tokens to continue, at least one.
    pub prompt: Vec<u32>,
    /// How tokens are chosen and when the output ends. Choice `i` draws the numbers of index `i`.
    pub params: SamplingParams,
    /// How many continuations to make.
    pub n: usize,
    /// Whether to report log-probabilities, and of how many alternatives to each chosen token.
    pub logprobs: Option<usize>,
    /// Whether to report log-probabilities of the prompt's tokens, and of how many alternatives.
    pub prompt_logprobs: Option<usize>,
    /// The adapter that answers; the base alone without one.
    pub adapter: Option<String>,
    /// What the output must follow.
    pub guide: Option<Guide>,
    /// When to stop before the end; see [`Until`].
    pub until: Option<Until>,
    /// When the request fails if it is not done.
    pub deadline: Option<Instant>,
    /// Those with higher numbers begin before others.
    pub priority: i32,
    /// Who asks: of those with equal priority, whose requests run least gets the next place.
    pub tenant: String,
}

impl GenerateRequest {
    /// One continuation by the base, without log-probabilities and limits of time.
    #[must_use]
    pub fn new(prompt: Vec<u32>, params: SamplingParams) -> Self {
        Self {
            prompt,
            params,
            n: 1,
            logprobs: None,
            prompt_logprobs: None,
            adapter: None,
            guide: None,
            until: None,
            deadline: None,
            priority: 0,
            tenant: String::new(),
        }
    }

    /// Lets an adapter answer.
    #[must_use]
    pub fn with_adapter(mut self, name: impl Into<String>) -> Self {
        self.adapter = Some(name.into());
        self
    }
}

impl fmt::Debug for GenerateRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GenerateRequest")
            .field("prompt_tokens", &self.prompt.len())
            .field("params", &self.params)
            .field("n", &self.n)
            .field("adapter", &self.adapter)
            .field("guide", &self.guide)
            .field("deadline", &self.deadline)
            .field("tenant", &self.tenant)
            .finish_non_exhaustive()
    }
}

/// What happens to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum EngineEvent {
    /// The log-probabilities of the prompt's tokens; the first token has none.
    Prompt(Vec<Option<TokenLogprobs>>),
    /// A choice has one more token; stop tokens are not reported.
    Token {
        /// Which of the `n` continuations.
        choice: usize,
        /// The token.
        token: u32,
        /// Its log-probability and alternatives, if asked for.
        logprobs: Option<TokenLogprobs>,
    },
    /// A choice is done.
    Finished {
        /// Which of the `n` continuations.
        choice: usize,
        /// Why: [`Stopped`](FinishReason::Stopped) also stands for a guide that is complete.
        reason: FinishReason,
        /// What it took.
        usage: Usage,
    },
}

/// What one continuation took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of those, tokens that were there from other requests.
    pub cached_tokens: usize,
    /// Tokens generated, with the stop token if there is one.
    pub completion_tokens: usize,
    /// Tokens proposed ahead of the model.
    pub drafted_tokens: usize,
    /// Of those, tokens that the model agreed with.
    pub accepted_tokens: usize,
    /// How often it had to make room for others and begin anew.
    pub preemptions: usize,
    /// From the submission to the first step.
    pub queued: Duration,
    /// From the submission to the first token.
    pub first_token: Duration,
    /// From the submission to the end.
    pub total: Duration,
}

impl Usage {
    /// The share of proposed tokens that the model agreed with, if there were some.
    #[must_use]
    pub fn acceptance_rate(&self) -> Option<f64> {
        #[expect(
            clippy::cast_precision_loss,
            reason = "token counts are far below 2^52"
        )]
        let ratio = |a: usize, b: usize| a as f64 / b as f64;
        (self.drafted_tokens > 0).then(|| ratio(self.accepted_tokens, self.drafted_tokens))
    }
}

/// A text whose continuation is to be judged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScoreRequest {
    /// What stands before, at least one token.
    pub context: Vec<u32>,
    /// The tokens to judge, at least one.
    pub continuation: Vec<u32>,
    /// The adapter that judges; the base alone without one.
    pub adapter: Option<String>,
    /// When the request fails if it is not done.
    pub deadline: Option<Instant>,
    /// Who asks, as in [`GenerateRequest`].
    pub tenant: String,
}

/// How likely a model finds the tokens of a continuation.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Score {
    /// The natural logarithm of each token's probability, given all before it.
    pub logprobs: Vec<f32>,
    /// Whether every token is the most likely one at its place.
    pub is_greedy: bool,
}

impl Score {
    /// The log-probability of the whole continuation.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.logprobs
            .iter()
            .map(|&logprob| f64::from(logprob))
            .sum()
    }
}
