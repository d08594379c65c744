//! Errors in the shape of the OpenAI API.

use std::time::Duration;

use axum::Json;
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use flametune_infer::Error as InferError;
use serde::Serialize;
use utoipa::ToSchema;

use crate::limits::Limited;

/// `{"error": {…}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    /// What went wrong.
    error: ErrorDetail,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
struct ErrorDetail {
    /// In words.
    message: String,
    /// The kind: `invalid_request_error`, `rate_limit_error`, …
    r#type: &'static str,
    /// The field of the request that is meant.
    param: Option<String>,
    /// The kind in more detail.
    code: Option<&'static str>,
}

/// An error that goes back to whoever asked.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    status: StatusCode,
    kind: &'static str,
    code: Option<&'static str>,
    param: Option<String>,
    message: String,
    retry_after: Option<Duration>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            code: None,
            param: None,
            message: message.into(),
            retry_after: None,
        }
    }

    /// The request cannot be served as it is.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// A field of the request cannot be served as it is.
    pub(crate) fn invalid_param(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::invalid(message).with_param(param)
    }

    /// As [`Self::invalid`] with another status.
    pub(crate) fn with_status(status: StatusCode, message: impl Into<String>) -> Self {
        Self::new(status, "invalid_request_error", message)
    }

    pub(crate) fn with_param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    pub(crate) fn with_code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    pub(crate) fn unauthorized(given: bool) -> Self {
        let message = if given {
            "incorrect API key provided"
        } else {
            "no API key provided: send it as `Authorization: Bearer KEY`"
        };
        Self::new(StatusCode::UNAUTHORIZED, "authentication_error", message)
            .with_code("invalid_api_key")
    }

    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "permission_error", message)
    }

    pub(crate) fn unknown_model(name: &str) -> Self {
        let shown: String = name.chars().take(100).collect();
        Self::new(
            StatusCode::NOT_FOUND,
            "invalid_request_error",
            format!("the model `{shown}` does not exist"),
        )
        .with_param("model")
        .with_code("model_not_found")
    }

    pub(crate) fn context_exceeded(tokens: usize, room: usize, context: usize) -> Self {
        let message = format!(
            "the model's context is {context} tokens; the prompt has {tokens} and the answer needs \
             room for {room}"
        );
        Self::invalid_param("messages", message).with_code("context_length_exceeded")
    }

    pub(crate) fn internal(log: &str) -> Self {
        // What is inside stays inside: details go to the log.
        tracing::error!(error = log, "request failed");
        let message = "the server had an error while processing the request";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", message)
    }

    /// The body, as an event of a stream that has begun already.
    pub(crate) fn body(&self) -> ErrorBody {
        ErrorBody {
            error: ErrorDetail {
                message: self.message.clone(),
                r#type: self.kind,
                param: self.param.clone(),
                code: self.code,
            },
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        if let Some(wait) = self.retry_after {
            // Rounded up, so that who waits that long is let in.
            let seconds = wait.as_secs() + 1;
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<Limited> for ApiError {
    fn from(limited: Limited) -> Self {
        let message = format!(
            "{} has no {} left; try again in {:.0} seconds",
            limited.whose,
            limited.what,
            limited.retry_after.as_secs_f64().ceil().max(1.0)
        );
        let mut error = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message)
            .with_code("rate_limit_exceeded");
        error.retry_after = Some(limited.retry_after);
        error
    }
}

impl From<InferError> for ApiError {
    fn from(error: InferError) -> Self {
        let message = error.to_string();
        match error {
            InferError::InvalidParam { field, .. } | InferError::UnknownToken { field, .. } => {
                Self::invalid_param(field, message)
            }
            InferError::EmptyPrompt { .. } => {
                Self::invalid_param("prompt", "the prompt must have at least one token")
            }
            InferError::PromptTooLong {
                len, max_context, ..
            } => Self::context_exceeded(len, 1, max_context),
            InferError::PromptTokenOutOfRange { id, vocab_size, .. } => Self::invalid_param(
                "prompt",
                format!("token {id} is outside of the vocabulary of {vocab_size}"),
            ),
            InferError::EmptyStopString { .. } => Self::invalid_param("stop", message),
            InferError::Guide { .. } => Self::invalid_param("response_format", message),
            InferError::UnknownAdapter { name, .. } => Self::unknown_model(&name),
            InferError::QueueFull { .. } => {
                let mut error = Self::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    "rate_limit_error",
                    "too many requests are waiting; try again later",
                );
                error.retry_after = Some(Duration::from_secs(1));
                error.with_code("rate_limit_exceeded")
            }
            InferError::AdapterBudget { .. } => Self::unavailable(message),
            InferError::DeadlineExceeded { .. } => Self::new(
                StatusCode::REQUEST_TIMEOUT,
                "timeout_error",
                "the request took longer than the server allows",
            ),
            InferError::EngineStopped => Self::unavailable("the server is shutting down"),
            InferError::NoCandidate { .. } => {
                Self::invalid_param("logit_bias", "no token is left to choose from")
            }
            _ => Self::internal(&message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_inside_stays_inside() {
        let error: ApiError = InferError::StepFailed {
            reason: "secret path /x".to_owned(),
        }
        .into();
        assert_eq!(error.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!error.body().error.message.contains("secret"));
    }

    #[test]
    fn names_of_strangers_are_cut() {
        let error = ApiError::unknown_model(&"é".repeat(5000));
        assert!(error.message.chars().count() < 140);
    }
}
