//! What an evaluation needs of a language model.

use crate::error::{Error, Result};
use crate::harness::GenerationOptions;

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct ChatTurn {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl ChatTurn {
    /// What the user says.
    #[must_use]
    pub fn user(content: impl Into<String>) -> Self {
        Self {
            role: "user".to_owned(),
            content: content.into(),
        }
    }
}

/// Something to ask a model.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelRequest {
    /// How likely a continuation is.
    Loglikelihood {
        /// What stands before; empty for the beginning of a text.
        context: String,
        /// What is judged.
        continuation: String,
    },
    /// How likely a whole text is, in windows of the model's length that do not overlap.
    LoglikelihoodRolling {
        /// The text.
        text: String,
    },
    /// What the model writes.
    GenerateUntil {
        /// What stands before.
        context: String,
        /// When it ends and how tokens are chosen.
        options: GenerationOptions,
        /// Tells apart several answers to one prompt.
        repeat: usize,
    },
}

/// What a model answers.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelResponse {
    /// Natural logarithm of a probability, and whether every token was the most likely one.
    Loglikelihood {
        /// The sum over tokens.
        value: f64,
        /// Whether greedy decoding would have written the same.
        is_greedy: bool,
    },
    /// Natural logarithm of a text's probability.
    LoglikelihoodRolling(f64),
    /// Text, without what ended it.
    Text(String),
}

/// A language model that scores and writes text.
///
/// Answers must depend on each request alone: not on what else is asked, nor in which order.
pub trait LanguageModel {
    /// Names everything that answers depend on: the model, its adapters, its numbers.
    ///
    /// Answers are stored under it, so two models of one fingerprint must answer alike.
    fn fingerprint(&self) -> String;

    /// Answers all requests, reporting each as soon as it is there; an error of `answered` ends the call.
    ///
    /// # Errors
    /// What the model reports, and what `answered` returns.
    fn answer(
        &self,
        requests: &[ModelRequest],
        answered: &mut dyn FnMut(usize, ModelResponse) -> Result<()>,
    ) -> Result<()>;

    /// Writes a conversation as the model was trained to read it; `open` begins the assistant's turn, and without it
    /// the last turn goes on.
    ///
    /// # Errors
    /// [`Error::Model`] unless the model has a chat template.
    fn render_chat(&self, turns: &[ChatTurn], open: bool) -> Result<String> {
        let _ = (turns, open);
        Err(Error::Model {
            what: "chat template".to_owned(),
            reason: "the model has none".to_owned(),
        })
    }
}
