//! One request on its way through the decoding loop.

use super::request::{Control, Event, FinishReason, Output, Request};
use crate::error::{Error, Result};
use crate::logprobs::TokenLogprobs;
use crate::processors::Scratch;
use crate::sampler::Sampler;

/// A request with the tokens it has so far.
#[derive(Debug)]
pub(super) struct Row {
    /// Position of the request in the batch.
    pub(super) request: usize,
    sampler: Sampler,
    /// Tokens that may be generated before the context is full.
    room: usize,
    top_logprobs: Option<usize>,
    logprobs: Vec<TokenLogprobs>,
    scratch: Scratch,
}

impl Row {
    /// Checks a request against a model.
    pub(super) fn admit(
        (position, request): (usize, &Request),
        vocab_size: usize,
        max_context: usize,
    ) -> Result<Self> {
        let len = request.prompt.len();
        if len == 0 {
            return Err(Error::EmptyPrompt { request: position });
        }
        if len >= max_context {
            return Err(Error::PromptTooLong {
                request: position,
                len,
                max_context,
            });
        }
        request.params.validate_vocab(vocab_size)?;
        let outside = |&id: &u32| id as usize >= vocab_size;
        if let Some(at) = request.prompt.iter().position(outside) {
            return Err(Error::PromptTokenOutOfRange {
                request: position,
                position: at,
                id: request.prompt[at],
                vocab_size,
            });
        }
        Ok(Self {
            request: position,
            sampler: Sampler::new(request.params.clone(), &request.prompt, request.index)?,
            room: max_context - len,
            top_logprobs: request.logprobs,
            logprobs: Vec::new(),
            scratch: Scratch::default(),
        })
    }

    /// Prompt and output so far.
    pub(super) fn tokens(&self) -> &[u32] {
        self.sampler.history().tokens()
    }

    /// Most tokens that will be generated.
    pub(super) fn limit(&self) -> usize {
        self.sampler.params().max_tokens.min(self.room)
    }

    /// Chooses the next token from its logits.
    pub(super) fn choose(&mut self, logits: &mut [f32]) -> Result<()> {
        let raw = self.top_logprobs.map(|top| (top, logits.to_vec()));
        let token = self.sampler.choose(logits)?;
        if let Some((top, raw)) = raw {
            self.logprobs
                .push(TokenLogprobs::of(&raw, token, top, &mut self.scratch));
        }
        Ok(())
    }

    /// Reports the token just chosen, and tells whether it was the last.
    pub(super) fn settle(
        &self,
        on_event: &mut dyn FnMut(Event<'_>) -> Control,
    ) -> Option<FinishReason> {
        let output = self.sampler.history().output();
        let (request, generated) = (self.request, output.len());
        let &token = output.last()?;
        if self.sampler.params().stop_token_ids.contains(&token) {
            return Some(FinishReason::StopToken(token));
        }
        let logprobs = self.logprobs.last();
        let control = on_event(Event::Token {
            request,
            token,
            logprobs,
        });
        if control == Control::Stop {
            Some(FinishReason::Stopped)
        } else if generated >= self.sampler.params().max_tokens {
            Some(FinishReason::Length)
        } else if generated >= self.room {
            Some(FinishReason::ContextFull)
        } else {
            None
        }
    }

    /// The result.
    pub(super) fn finish(self, finish_reason: FinishReason) -> Output {
        let mut tokens = self.sampler.history().output().to_vec();
        if matches!(finish_reason, FinishReason::StopToken(_)) {
            tokens.pop();
        }
        Output {
            tokens,
            finish_reason,
            logprobs: self.logprobs,
        }
    }
}
