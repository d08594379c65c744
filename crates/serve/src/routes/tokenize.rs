//! `POST /tokenize`, as in vLLM.

use axum::Json;
use axum::extract::State;

use crate::api::{ApiError, ErrorBody, TokenizeRequest, TokenizeResponse};
use crate::extract::ApiJson;
use crate::prompt::{Conversation, encode_chat, encode_text};
use crate::state::AppState;

/// Turn a text or a conversation into token ids
#[utoipa::path(
    post,
    path = "/tokenize",
    tag = "generation",
    request_body = TokenizeRequest,
    responses(
        (status = 200, description = "The ids", body = TokenizeResponse),
        (status = 400, description = "What is asked cannot be done", body = ErrorBody),
        (status = 401, description = "There is no such key", body = ErrorBody),
        (status = 404, description = "There is no such model", body = ErrorBody),
        (status = 413, description = "The body is too large", body = ErrorBody),
        (status = 415, description = "The body is not announced as JSON", body = ErrorBody),
    ),
    security((), ("key" = [])),
)]
pub(crate) async fn tokenize(
    State(state): State<AppState>,
    ApiJson(request): ApiJson<TokenizeRequest>,
) -> Result<Json<TokenizeResponse>, ApiError> {
    if let Some(model) = &request.model {
        state.resolve(model)?;
    }
    let tokenizer = &state.model.tokenizer;
    let tokens = match (request.prompt, request.messages) {
        (Some(text), None) => {
            let special = request.add_special_tokens.unwrap_or(true);
            encode_text(tokenizer, text, special).await?
        }
        (None, Some(messages)) => {
            let continued = request.continue_final_message.unwrap_or(false);
            let conversation = Conversation {
                messages,
                tools: request.tools,
                add_generation_prompt: request.add_generation_prompt.unwrap_or(!continued),
                continue_final_message: continued,
                variables: request.chat_template_kwargs.unwrap_or_default(),
            };
            encode_chat(&state, conversation).await?
        }
        _ => {
            let message = "there must be either a prompt or messages";
            return Err(ApiError::invalid_param("prompt", message));
        }
    };
    let spelled = |&id: &u32| tokenizer.id_to_token(id).unwrap_or_default();
    let strings = request.return_token_strs.unwrap_or(false);
    let token_strs = strings.then(|| tokens.iter().map(spelled).collect());
    Ok(Json(TokenizeResponse {
        count: tokens.len(),
        max_model_len: state.model.context,
        tokens,
        token_strs,
    }))
}
