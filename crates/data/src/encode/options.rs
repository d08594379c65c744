//! How examples are encoded.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::chat::CivilTime;
use crate::error::{Error, Result};

/// Which tokens of a conversation are trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrainOn {
    /// Everything that the assistant wrote.
    #[default]
    Assistant,
    /// What the assistant wrote after the last message of the user.
    LastTurn,
    /// Every token.
    All,
}

/// What happens to an example with more tokens than the limit.
///
/// Where answers are compared or judged, [`Self::Right`] and [`Self::Left`] both shorten the prompt as [`KeepPrompt`]
/// says, and the ends of the answers if that is not enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Truncation {
    /// It is an error.
    #[default]
    Error,
    /// It is left out, and counted.
    Drop,
    /// The end is cut off.
    Right,
    /// The beginning is cut off; a BOS at the front stays.
    Left,
}

/// Which part of an over-long prompt stays where answers are compared or judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeepPrompt {
    /// The end, next to the answer; a BOS at the front stays as well.
    #[default]
    End,
    /// The start.
    Start,
}

/// What happens when something suspicious is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strictness {
    /// Nothing.
    Ignore,
    /// It is noted ([`super::Note`]).
    Warn,
    /// It is an error.
    Refuse,
}

/// How examples are encoded.
#[derive(Debug, Clone, PartialEq)]
pub struct EncodeOptions {
    /// Which tokens of a conversation are trained.
    pub train_on: TrainOn,
    /// Largest number of tokens of an example; `None` is no limit.
    pub max_length: Option<usize>,
    /// What happens above it.
    pub truncation: Truncation,
    /// Which part of an over-long prompt stays where answers are compared or judged.
    pub keep_prompt: KeepPrompt,
    /// Number of tokens that a prompt keeps even before long answers; `None` is half of `max_length`.
    pub max_prompt_length: Option<usize>,
    /// Whether EOS is put behind a text or a completion.
    pub append_eos: bool,
    /// What happens when BOS stands at the front twice.
    pub double_bos: Strictness,
    /// What happens when the trained tokens do not end with a token that ends a generation.
    pub missing_eos: Strictness,
    /// Variables for the chat template, such as `enable_thinking`; the special tokens are added.
    pub variables: Map<String, Value>,
    /// The time that the chat template is told.
    pub now: Option<CivilTime>,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self {
            train_on: TrainOn::default(),
            max_length: None,
            truncation: Truncation::default(),
            keep_prompt: KeepPrompt::default(),
            max_prompt_length: None,
            append_eos: true,
            double_bos: Strictness::Refuse,
            missing_eos: Strictness::Warn,
            variables: Map::new(),
            now: None,
        }
    }
}

impl EncodeOptions {
    /// Makes sure that an example can keep a token and its target.
    pub(super) fn validate(&self) -> Result<()> {
        let Some(limit) = self.max_length else {
            return Ok(());
        };
        if limit < 2 {
            return Err(Error::InvalidOption {
                option: "max_length".into(),
                expected: "at least 2",
                got: limit.to_string(),
            });
        }
        match self.max_prompt_length {
            Some(prompt) if prompt == 0 || prompt >= limit => Err(Error::InvalidOption {
                option: "max_prompt_length".into(),
                expected: "at least 1 and below max_length",
                got: prompt.to_string(),
            }),
            _ => Ok(()),
        }
    }
}
