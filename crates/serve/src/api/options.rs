//! What chat and plain completions have in common.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

/// How tokens are chosen, when an answer ends, and in which form it comes.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub(crate) struct SamplingOptions {
    /// Randomness; 0 always takes the most likely token.
    #[schema(minimum = 0)]
    pub(crate) temperature: Option<f32>,
    /// Choose among the fewest tokens that hold this probability together.
    #[schema(minimum = 0, maximum = 1)]
    pub(crate) top_p: Option<f32>,
    /// Choose among this many of the most likely tokens; 0 or −1 for all.
    #[schema(minimum = -1)]
    pub(crate) top_k: Option<i64>,
    /// Drop tokens less likely than this times the most likely one.
    #[schema(minimum = 0, maximum = 1)]
    pub(crate) min_p: Option<f32>,
    /// Divides the scores of tokens already seen.
    pub(crate) repetition_penalty: Option<f32>,
    /// Subtracted from the scores of tokens already written.
    #[schema(minimum = -2, maximum = 2)]
    pub(crate) presence_penalty: Option<f32>,
    /// Subtracted from the scores of tokens for each time they were written.
    #[schema(minimum = -2, maximum = 2)]
    pub(crate) frequency_penalty: Option<f32>,
    /// Added to the scores of tokens, by their ids.
    pub(crate) logit_bias: Option<BTreeMap<String, f32>>,
    /// The same seed gives the same answer.
    pub(crate) seed: Option<i64>,
    /// How many answers to make.
    #[schema(minimum = 1)]
    pub(crate) n: Option<u32>,
    /// Where to stop; the text itself is left out.
    pub(crate) stop: Option<StopOption>,
    /// Tokens that end an answer, beside those of the model.
    pub(crate) stop_token_ids: Option<Vec<u32>>,
    /// Whether to go on behind the model's own end.
    pub(crate) ignore_eos: Option<bool>,
    /// Fewest tokens before an answer may end.
    pub(crate) min_tokens: Option<u32>,
    /// Whether the answer comes piece by piece.
    pub(crate) stream: Option<bool>,
    /// What a stream carries.
    pub(crate) stream_options: Option<StreamOptions>,
    /// The form of the answer.
    pub(crate) response_format: Option<ResponseFormat>,
    /// A JSON schema that the answer follows.
    #[schema(value_type = Option<Object>)]
    pub(crate) guided_json: Option<Value>,
    /// A regular expression that the answer matches.
    pub(crate) guided_regex: Option<String>,
    /// A Lark grammar that derives the answer.
    pub(crate) guided_grammar: Option<String>,
    /// One of these texts is the answer.
    pub(crate) guided_choice: Option<Vec<String>>,
}

/// One text or several.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum StopOption {
    One(String),
    Many(Vec<String>),
}

impl StopOption {
    pub(crate) fn into_list(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

/// What a stream carries.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
pub(crate) struct StreamOptions {
    /// Whether a last piece tells the number of tokens.
    #[serde(default)]
    pub(crate) include_usage: Option<bool>,
}

/// The form of an answer.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum ResponseFormat {
    /// Any text.
    Text,
    /// A JSON object.
    JsonObject,
    /// JSON that a schema describes.
    JsonSchema {
        /// The schema and its name.
        json_schema: JsonSchemaFormat,
    },
}

/// A schema and what it is called.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub(crate) struct JsonSchemaFormat {
    /// The schema.
    #[schema(value_type = Object)]
    pub(crate) schema: Value,
}
