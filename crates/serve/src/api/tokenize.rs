//! `/tokenize`.

use flametune_data::Message;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// A text, or a conversation, to turn into token ids.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct TokenizeRequest {
    /// The base model, or one of its adapters.
    pub(crate) model: Option<String>,
    /// A text; either this or `messages`.
    pub(crate) prompt: Option<String>,
    /// A conversation; either this or `prompt`.
    #[schema(value_type = Option<Vec<Object>>)]
    pub(crate) messages: Option<Vec<Message>>,
    /// Whether BOS and EOS are put around a text as the tokenizer says.
    pub(crate) add_special_tokens: Option<bool>,
    /// Whether the template begins an answer.
    pub(crate) add_generation_prompt: Option<bool>,
    /// Whether the last message stays open.
    pub(crate) continue_final_message: Option<bool>,
    /// Tools that the template tells the model of.
    #[schema(value_type = Option<Vec<Object>>)]
    pub(crate) tools: Option<Vec<Value>>,
    /// More variables for the template.
    #[schema(value_type = Option<Object>)]
    pub(crate) chat_template_kwargs: Option<Map<String, Value>>,
    /// Whether the tokens' texts come too.
    pub(crate) return_token_strs: Option<bool>,
}

/// Token ids.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenizeResponse {
    pub(crate) count: usize,
    pub(crate) max_model_len: usize,
    pub(crate) tokens: Vec<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_strs: Option<Vec<String>>,
}
