//! The number of tokens of a request.

use serde::Serialize;
use utoipa::ToSchema;

/// The number of tokens of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct UsageBody {
    /// Tokens of the prompts.
    pub(crate) prompt_tokens: usize,
    /// Tokens of the answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) completion_tokens: Option<usize>,
    /// Both.
    pub(crate) total_tokens: usize,
    /// What of the prompt was there already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_tokens_details: Option<PromptTokensDetails>,
}

/// What of a prompt was there already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct PromptTokensDetails {
    /// Tokens that earlier prompts began with as well.
    pub(crate) cached_tokens: usize,
}
