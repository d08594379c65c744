//! From texts and conversations to token ids.

use std::sync::Arc;

use flametune_data::{ChatInput, Content, Error as DataError, Message, Tokenizer};
use serde_json::{Map, Value};

use crate::api::ApiError;
use crate::state::{AppState, civil_time};

/// A conversation and how it is rendered.
#[derive(Debug)]
pub(crate) struct Conversation {
    pub(crate) messages: Vec<Message>,
    pub(crate) tools: Option<Vec<Value>>,
    pub(crate) add_generation_prompt: bool,
    pub(crate) continue_final_message: bool,
    pub(crate) variables: Map<String, Value>,
}

/// Renders a conversation and encodes it, on a thread that may take its time.
pub(crate) async fn encode_chat(
    state: &AppState,
    conversation: Conversation,
) -> Result<Vec<u32>, ApiError> {
    let state = state.clone();
    blocking(move || render(&state, conversation)).await
}

/// Encodes a text, on a thread that may take its time.
pub(crate) async fn encode_text(
    tokenizer: &Arc<Tokenizer>,
    text: String,
    add_special_tokens: bool,
) -> Result<Vec<u32>, ApiError> {
    let tokenizer = Arc::clone(tokenizer);
    blocking(move || {
        tokenizer
            .encode(&text, add_special_tokens)
            .map_err(|error| ApiError::invalid_param("prompt", error.to_string()))
    })
    .await
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ApiError::internal(&error.to_string())),
    }
}

fn render(state: &AppState, conversation: Conversation) -> Result<Vec<u32>, ApiError> {
    let model = &state.model;
    let Some(template) = &model.template else {
        return Err(ApiError::invalid_param(
            "messages",
            "the model has no chat template; use /v1/completions",
        ));
    };
    if conversation.messages.is_empty() {
        return Err(ApiError::invalid_param(
            "messages",
            "there must be at least one message",
        ));
    }
    let messages = conversation
        .messages
        .into_iter()
        .enumerate()
        .map(|(index, message)| plain(index, message))
        .collect::<Result<Vec<_>, _>>()?;
    let mut input = ChatInput::new(&messages).generation_prompt(conversation.add_generation_prompt);
    input.continue_final_message = conversation.continue_final_message;
    input.now = civil_time();
    input.variables = conversation.variables;
    if let Some(tools) = &conversation.tools {
        input = input.tools(tools);
    }
    let input = input.special_tokens(model.tokenizer.special());
    let text = template.render(&input).map_err(|error| {
        let param = match &error {
            DataError::ConflictingOptions { .. } => "continue_final_message",
            _ => "messages",
        };
        ApiError::invalid_param(param, error.to_string())
    })?;
    // The template writes the special tokens itself.
    model
        .tokenizer
        .encode(&text, false)
        .map_err(|error| ApiError::invalid_param("messages", error.to_string()))
}

/// A message whose content is text: parts are joined by line ends.
fn plain(index: usize, mut message: Message) -> Result<Message, ApiError> {
    if let Content::Parts(parts) = &message.content {
        let texts = parts
            .iter()
            .map(|part| match (part.get("type"), part.get("text")) {
                (Some(Value::String(kind)), Some(Value::String(text))) if kind == "text" => {
                    Ok(text.as_str())
                }
                _ => Err(ApiError::invalid_param(
                    format!("messages.{index}.content"),
                    "only parts of type `text` are understood",
                )),
            })
            .collect::<Result<Vec<_>, _>>()?;
        message.content = Content::Text(texts.join("\n"));
    }
    Ok(message)
}
