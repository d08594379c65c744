//! Cutting what is longer than the limit.

use super::Encoder;
use super::options::{KeepPrompt, Truncation};
use crate::error::{Error, Result};

/// How an example stands to the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// It is within.
    Whole,
    /// It is to be cut.
    Cut { tokens: usize, limit: usize },
    /// It is to be left out.
    Dropped { tokens: usize, limit: usize },
}

impl Encoder {
    /// Compares a number of tokens with the limit.
    pub(super) fn fit(&self, tokens: usize) -> Result<Fit> {
        match (self.options.max_length, self.options.truncation) {
            (None, _) => Ok(Fit::Whole),
            (Some(limit), _) if tokens <= limit => Ok(Fit::Whole),
            (Some(limit), Truncation::Error) => Err(Error::TooLong { tokens, limit }),
            (Some(limit), Truncation::Drop) => Ok(Fit::Dropped { tokens, limit }),
            (Some(limit), Truncation::Right | Truncation::Left) => Ok(Fit::Cut { tokens, limit }),
        }
    }

    /// Which of `ids` stay when there is room for `limit`.
    pub(super) fn kept(&self, ids: &[u32], limit: usize) -> Kept {
        match self.options.truncation {
            Truncation::Left => self.kept_end(ids, limit),
            _ => Kept::start(ids.len(), limit),
        }
    }

    /// Which ids of a prompt stay.
    fn kept_prompt(&self, ids: &[u32], limit: usize) -> Kept {
        match self.options.keep_prompt {
            KeepPrompt::End => self.kept_end(ids, limit),
            KeepPrompt::Start => Kept::start(ids.len(), limit),
        }
    }

    fn kept_end(&self, ids: &[u32], limit: usize) -> Kept {
        let bos = self.tokenizer.special().bos.as_ref().map(|bos| bos.id);
        let head = usize::from(limit > 0 && bos.is_some() && ids.first().copied() == bos);
        let tail = limit.saturating_sub(head).min(ids.len() - head);
        Kept {
            head,
            tail: ids.len() - tail,
            end: ids.len(),
        }
    }

    /// Cuts a prompt and its answers so that the longest of them fits, the same way for all.
    ///
    /// The prompt keeps the room that the longest answer leaves, and at least `max_prompt_length`; what the answers
    /// exceed the rest by is cut off their ends.
    ///
    /// # Source
    /// - reference: trl `CPOTrainer.tokenize_row`, `truncation_mode` `keep_end` and `keep_start`
    /// - differs: there, an over-long prompt is cut to `max_prompt_length` even when there is more room, and BOS goes
    pub(super) fn cut_answers(
        &self,
        prompt: &mut Vec<u32>,
        answers: &mut [&mut Vec<u32>],
        limit: usize,
    ) {
        let longest = answers.iter().map(|answer| answer.len()).max().unwrap_or(0);
        let reserved = self.options.max_prompt_length.unwrap_or(limit / 2);
        let room = limit.saturating_sub(longest).max(reserved);
        if prompt.len() > room {
            self.kept_prompt(prompt, room).apply(prompt);
        }
        for answer in answers {
            answer.truncate(limit.saturating_sub(prompt.len()));
        }
    }
}

/// The part of a sequence that stays: its first `head` elements, and those from `tail` to `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kept {
    head: usize,
    tail: usize,
    end: usize,
}

impl Kept {
    fn start(length: usize, limit: usize) -> Self {
        Self {
            head: 0,
            tail: 0,
            end: length.min(limit),
        }
    }

    /// Removes the rest.
    pub(super) fn apply<T>(self, values: &mut Vec<T>) {
        values.truncate(self.end);
        values.drain(self.head..self.tail.max(self.head));
    }
}
