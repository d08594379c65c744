//! `POST /v1/embeddings`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use crate::api::{
    ApiError, Embedding, EmbeddingInput, EmbeddingRequest, EmbeddingResponse, Encoding, ErrorBody,
    UsageBody, Vector,
};
use crate::auth::Tenant;
use crate::extract::ApiJson;
use crate::prompt::{blocking, encode_text};
use crate::state::{AppState, ServedEncoder};

/// Turn texts into vectors
///
/// Only where an encoder is served beside the base.
#[utoipa::path(
    post,
    path = "/v1/embeddings",
    tag = "embeddings",
    request_body = EmbeddingRequest,
    responses(
        (status = 200, description = "The vectors", body = EmbeddingResponse),
        (status = 400, description = "What is asked cannot be done", body = ErrorBody),
        (status = 401, description = "There is no such key", body = ErrorBody),
        (status = 404, description = "There is no such model", body = ErrorBody),
        (status = 413, description = "The body is too large", body = ErrorBody),
        (status = 415, description = "The body is not announced as JSON", body = ErrorBody),
        (status = 429, description = "A limit is reached", body = ErrorBody),
    ),
    security((), ("key" = [])),
)]
pub(crate) async fn embeddings(
    State(state): State<AppState>,
    tenant: Tenant,
    ApiJson(request): ApiJson<EmbeddingRequest>,
) -> Result<Json<EmbeddingResponse>, ApiError> {
    let encoder = encoder(&state, &request.model)?;
    let rows = encode(encoder, request.input).await?;
    let tokens: usize = rows.iter().map(Vec::len).sum();
    let now = std::time::Instant::now();
    let permit = state.limiter.admit(now, &tenant.name, None, tokens)?;
    let embedder = Arc::clone(&encoder.embedder);
    let vectors = blocking(move || {
        let _counted = permit;
        embedder
            .embed(&rows)
            .map_err(|error| ApiError::internal(&error))
    })
    .await?;
    let width = vectors.first().map_or(0, Vec::len);
    if request
        .dimensions
        .is_some_and(|asked| asked as usize != width)
    {
        let message = format!("dimensions must be the encoder's own, {width}");
        return Err(ApiError::invalid_param("dimensions", message));
    }
    let encoding = request.encoding_format.unwrap_or(Encoding::Float);
    let data = vectors
        .into_iter()
        .enumerate()
        .map(|(index, vector)| Embedding {
            object: "embedding",
            index,
            embedding: match encoding {
                Encoding::Float => Vector::Float(vector),
                Encoding::Base64 => {
                    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
                    Vector::Base64(base64(&bytes))
                }
            },
        });
    Ok(Json(EmbeddingResponse {
        object: "list",
        data: data.collect(),
        model: request.model,
        usage: UsageBody {
            prompt_tokens: tokens,
            total_tokens: tokens,
            ..UsageBody::default()
        },
    }))
}

fn encoder<'a>(state: &'a AppState, model: &str) -> Result<&'a ServedEncoder, ApiError> {
    match &state.encoder {
        Some(encoder) if encoder.name == model => Ok(encoder),
        other if model == state.model.name || state.is_adapter(model) => {
            let message = match other {
                Some(encoder) => format!(
                    "the model `{model}` generates text; `{}` makes embeddings",
                    encoder.name
                ),
                None => format!(
                    "the model `{model}` generates text, and no encoder is served that could make \
                     embeddings"
                ),
            };
            Err(ApiError::invalid_param("model", message))
        }
        _ => Err(ApiError::unknown_model(model)),
    }
}

async fn encode(encoder: &ServedEncoder, input: EmbeddingInput) -> Result<Vec<Vec<u32>>, ApiError> {
    /// As in the API that this one follows.
    const MAX_INPUTS: usize = 2048;
    let texts = match input {
        EmbeddingInput::Text(text) => vec![Ok(text)],
        EmbeddingInput::Texts(texts) => texts.into_iter().map(Ok).collect(),
        EmbeddingInput::Ids(ids) => vec![Err(ids)],
        EmbeddingInput::IdLists(lists) => lists.into_iter().map(Err).collect::<Vec<_>>(),
    };
    if texts.is_empty() || texts.len() > MAX_INPUTS {
        let message = format!(
            "there must be 1 to {MAX_INPUTS} inputs, got {}",
            texts.len()
        );
        return Err(ApiError::invalid_param("input", message));
    }
    let most = encoder.embedder.max_tokens();
    let mut rows = Vec::with_capacity(texts.len());
    for (index, text) in texts.into_iter().enumerate() {
        let param = || format!("input.{index}");
        let ids = match text {
            Err(ids) => ids,
            Ok(text) => encode_text(&encoder.tokenizer, text, true)
                .await
                .map_err(|error| error.with_param(param()))?,
        };
        if ids.is_empty() || ids.len() > most {
            let message = format!("an input must have 1 to {most} tokens, got {}", ids.len());
            return Err(ApiError::invalid_param(param(), message));
        }
        let vocab = encoder.tokenizer.vocab_size();
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab) {
            let message = format!("token {id} is outside of the vocabulary of {vocab}");
            return Err(ApiError::invalid_param(param(), message));
        }
        rows.push(ids);
    }
    Ok(rows)
}

/// Base64 with padding, RFC 4648 §4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let byte = |index: usize| u32::from(three.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place) & 63) as usize];
            out.push(if place > three.len() {
                '='
            } else {
                char::from(digit)
            });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_of_the_standard() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
