//! `/v1/completions`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::options::SamplingOptions;
use super::usage::UsageBody;

/// Texts to continue.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct CompletionRequest {
    /// The base model, or one of its adapters.
    pub(crate) model: String,
    /// What to continue.
    pub(crate) prompt: Prompt,
    /// Most tokens of a continuation; 16 unless given.
    #[schema(minimum = 0)]
    pub(crate) max_tokens: Option<u32>,
    /// Log-probabilities of the tokens, and of this many alternatives.
    #[schema(minimum = 0, maximum = 20)]
    pub(crate) logprobs: Option<u32>,
    /// Whether the prompt comes back in front of the continuation; not in streams.
    pub(crate) echo: Option<bool>,
    /// Must be as large as `n`.
    pub(crate) best_of: Option<u32>,
    /// Must be empty: there is no model that fills gaps.
    pub(crate) suffix: Option<String>,
    /// How tokens are chosen.
    #[serde(flatten)]
    pub(crate) options: SamplingOptions,
}

/// Text or token ids, one prompt or several.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Prompt {
    Text(String),
    Ids(Vec<u32>),
    Texts(Vec<String>),
    IdLists(Vec<Vec<u32>>),
}

/// Continuations.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CompletionResponse {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) choices: Vec<CompletionChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<UsageBody>,
}

/// One continuation, or a piece of it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CompletionChoice {
    pub(crate) index: usize,
    pub(crate) text: String,
    pub(crate) logprobs: Option<CompletionLogprobs>,
    /// `stop` at the model's end or a stop string, `length` where there was no room for more.
    pub(crate) finish_reason: Option<&'static str>,
}

/// Log-probabilities of tokens, in lists of the same length.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub(crate) struct CompletionLogprobs {
    pub(crate) tokens: Vec<String>,
    /// Null for the first token of a prompt.
    pub(crate) token_logprobs: Vec<Option<f32>>,
    /// Alternatives by their text.
    #[schema(value_type = Vec<Option<Object>>)]
    pub(crate) top_logprobs: Vec<Option<Map<String, Value>>>,
    /// Where each token begins, in characters.
    pub(crate) text_offset: Vec<usize>,
}
