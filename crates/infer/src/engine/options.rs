//! How much an engine may use, and how it works.

use flametune_lm::CausalLm;
use flametune_peft::Facts;

use crate::error::{Error, Result};

/// The limits and the ways of an engine.
///
/// # Units
/// - `kv_tokens`, `step_tokens`, `page_tokens`: tokens, virtual ones included
/// - `adapter_bytes`: bytes of adapters' parameters
#[derive(Debug)]
pub struct EngineOptions {
    /// Tokens that the key/value cache has room for, all requests together.
    pub kv_tokens: usize,
    /// Tokens a page of that cache holds; requests share prefixes page by page.
    pub page_tokens: usize,
    /// Most tokens of one step: the newest of every running request, and pieces of prompts.
    pub step_tokens: usize,
    /// Most requests in a step.
    pub max_running: usize,
    /// Most requests that wait; more are refused.
    pub max_waiting: usize,
    /// Whether prompts that begin alike, with the same adapter, share what was computed of them.
    pub prefix_sharing: bool,
    /// Whether a request's tokens and log-probabilities are the same, to the bit, whatever else is
    /// in the batch. Long prompts are read more slowly then.
    pub batch_invariant: bool,
    /// Bytes of adapters that are kept in memory; those used longest ago leave first and are read
    /// from their folders again when someone asks for them.
    pub adapter_bytes: usize,
    /// What the base and its tokenizer are, for comparison with the passports of adapters; without
    /// it passports are not compared.
    pub facts: Option<Facts>,
    /// How tokens are proposed ahead of the model.
    pub speculation: Option<Speculation>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            kv_tokens: 16 * 1024,
            page_tokens: 32,
            step_tokens: 512,
            max_running: 64,
            max_waiting: 1024,
            prefix_sharing: true,
            batch_invariant: false,
            adapter_bytes: 1 << 30,
            facts: None,
            speculation: None,
        }
    }
}

/// Who proposes tokens that the model then checks, several in one step.
///
/// Every proposal is the most likely token of its source. The model draws its own token at that
/// place; where the two are the same the next place counts too. That is rejection sampling for a
/// proposal distribution with all its mass on one token `x`: `x` is accepted with probability
/// `p(x)`, and what is emitted otherwise is distributed as `p` without `x`. So the output's
/// distribution is that of the model alone, and with a seed the tokens are the same ones, up to
/// rounding of the logits (to the bit with
/// [`batch_invariant`](EngineOptions::batch_invariant)).
///
/// # Source
/// - Leviathan et al. 2023, Fast Inference from Transformers via Speculative Decoding,
///   arXiv:2211.17192, §2.3
#[derive(Debug)]
pub enum Speculation {
    /// What followed the last few tokens when they stood in prompt or output before.
    PromptLookup {
        /// Most tokens to look for; fewer are tried when they are not found.
        ngram: usize,
        /// Most tokens proposed in a step.
        tokens: usize,
    },
    /// A smaller model with the same vocabulary; it sees no adapters.
    DraftModel {
        /// The model.
        model: Box<CausalLm>,
        /// Tokens proposed in a step.
        tokens: usize,
    },
    /// An adapter on the same base that answers `tokens - 1` placeholders behind the text with the
    /// tokens that come there, all in one pass.
    DraftAdapter {
        /// The name it was loaded under.
        name: String,
        /// The placeholder.
        mask_token: u32,
        /// Tokens proposed in a step.
        tokens: usize,
    },
}

impl Speculation {
    /// Most tokens proposed in a step.
    #[must_use]
    pub fn tokens(&self) -> usize {
        match self {
            Self::PromptLookup { tokens, .. }
            | Self::DraftModel { tokens, .. }
            | Self::DraftAdapter { tokens, .. } => *tokens,
        }
    }
}

impl EngineOptions {
    /// Checks the limits against each other and against a model.
    pub(crate) fn validate(&self, model: &CausalLm) -> Result<()> {
        let at_least = |field, value: usize, least: usize, expected| {
            if value >= least {
                return Ok(());
            }
            Err(Error::InvalidParam {
                field,
                expected,
                got: value.to_string(),
            })
        };
        at_least("page_tokens", self.page_tokens, 1, "at least 1")?;
        at_least(
            "kv_tokens",
            self.kv_tokens,
            self.page_tokens.saturating_mul(2),
            "at least two pages",
        )?;
        at_least("step_tokens", self.step_tokens, 1, "at least 1")?;
        at_least("max_running", self.max_running, 1, "at least 1")?;
        let Some(speculation) = &self.speculation else {
            return Ok(());
        };
        at_least("speculation tokens", speculation.tokens(), 1, "at least 1")?;
        match speculation {
            Speculation::PromptLookup { ngram, .. } => {
                at_least("speculation ngram", *ngram, 1, "at least 1")
            }
            Speculation::DraftModel { model: draft, .. } => {
                draft.check_predicts_tokens()?;
                if draft.vocab_size() == model.vocab_size() {
                    return Ok(());
                }
                Err(Error::DraftVocabulary {
                    expected: model.vocab_size(),
                    got: draft.vocab_size(),
                })
            }
            Speculation::DraftAdapter { mask_token, .. } => {
                if (*mask_token as usize) < model.vocab_size() {
                    return Ok(());
                }
                Err(Error::UnknownToken {
                    field: "speculation mask_token",
                    id: *mask_token,
                    vocab_size: model.vocab_size(),
                })
            }
        }
    }
}
