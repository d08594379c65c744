//! The page at `/`: pick a model, chat, see how fast it goes.

use askama::Template;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};

use crate::api::ApiError;
use crate::state::AppState;

/// Everything comes from here, nothing runs that stands in the page itself, and no other page may
/// hold this one in a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[derive(Template)]
#[template(path = "index.html")]
struct Index<'a> {
    model: &'a str,
    context: usize,
    /// Empty where keys are needed: who has none learns no names.
    adapters: Vec<Row>,
    needs_key: bool,
    chats: bool,
}

struct Row {
    name: String,
    kib: usize,
    users: usize,
    requests: u64,
}

/// The page itself.
pub(crate) async fn index(State(state): State<AppState>) -> Result<Response, ApiError> {
    let needs_key = state.keys.required();
    let adapters = match needs_key {
        true => Vec::new(),
        false => state.model.backend.adapters(),
    };
    let page = Index {
        model: &state.model.name,
        context: state.model.context,
        adapters: adapters
            .into_iter()
            .map(|adapter| Row {
                kib: adapter.bytes / 1024,
                users: adapter.users,
                requests: adapter.requests,
                name: adapter.name,
            })
            .collect(),
        needs_key,
        chats: state.model.template.is_some(),
    };
    let html = page
        .render()
        .map_err(|error| ApiError::internal(&error.to_string()))?;
    Ok(asset("text/html; charset=utf-8", html))
}

/// What the page does.
pub(crate) async fn script() -> Response {
    let script = include_str!("../assets/page.js");
    asset("text/javascript; charset=utf-8", script.to_owned())
}

/// How the page looks.
pub(crate) async fn style() -> Response {
    let style = include_str!("../assets/page.css");
    asset("text/css; charset=utf-8", style.to_owned())
}

fn asset(kind: &'static str, text: String) -> Response {
    let value = HeaderValue::from_static;
    let headers = [
        (CONTENT_TYPE, value(kind)),
        (CACHE_CONTROL, value("no-cache")),
        (CONTENT_SECURITY_POLICY, value(POLICY)),
        (REFERRER_POLICY, value("no-referrer")),
        (
            HeaderName::from_static("x-content-type-options"),
            value("nosniff"),
        ),
    ];
    (headers, text).into_response()
}
