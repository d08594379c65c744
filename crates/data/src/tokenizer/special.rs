//! Special tokens, and which of them are put around a text.

use crate::error::{Error, Result};

/// A token with a meaning beyond its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecialToken {
    /// Its id.
    pub id: u32,
    /// Its spelling.
    pub text: String,
}

/// The special tokens of a tokenizer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SpecialTokens {
    /// Begins a text.
    pub bos: Option<SpecialToken>,
    /// Ends a text.
    pub eos: Option<SpecialToken>,
    /// Fills a batch.
    pub pad: Option<SpecialToken>,
    /// Stands for what the vocabulary lacks.
    pub unk: Option<SpecialToken>,
    /// Every id that ends a generation: EOS first, then those of `generation_config.json` or the end-of-turn tokens
    /// of a GGUF header.
    pub eos_ids: Vec<u32>,
}

impl SpecialTokens {
    /// The tokens with the names that configuration files and templates use.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &SpecialToken)> {
        [
            ("bos_token", &self.bos),
            ("eos_token", &self.eos),
            ("pad_token", &self.pad),
            ("unk_token", &self.unk),
        ]
        .into_iter()
        .filter_map(|(name, token)| token.as_ref().map(|token| (name, token)))
    }

    /// Adds an id that ends a generation, once.
    pub(super) fn add_eos_id(&mut self, id: u32) {
        if !self.eos_ids.contains(&id) {
            self.eos_ids.push(id);
        }
    }
}

/// Which tokens `add_special_tokens` puts around a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BosEos {
    /// BOS in front.
    pub bos: bool,
    /// EOS behind.
    pub eos: bool,
}

impl BosEos {
    /// Makes sure that the tokens which are asked for exist.
    pub(super) fn check(self, special: &SpecialTokens) -> Result<()> {
        if self.bos && special.bos.is_none() {
            return Err(Error::MissingSpecialToken {
                field: "add_bos_token",
                token: "bos",
            });
        }
        if self.eos && special.eos.is_none() {
            return Err(Error::MissingSpecialToken {
                field: "add_eos_token",
                token: "eos",
            });
        }
        Ok(())
    }
}
