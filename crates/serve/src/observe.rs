//! Around every request: its id, its span in the log, its time.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use futures::StreamExt;
use tracing::{Instrument, Span};

use crate::state::AppState;
use crate::trace::Trace;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of a request: its own, if it brings a harmless one.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) String);

impl RequestId {
    fn of(headers: &HeaderMap, state: &AppState) -> Self {
        const MAX_BYTES: usize = 64;
        let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
        let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        match given {
            Some(id) if (1..=MAX_BYTES).contains(&id.len()) && id.bytes().all(harmless) => {
                Self(id.to_owned())
            }
            _ => Self(state.next_id()),
        }
    }
}

/// Gives a request its id and its span, and looks at the clock.
pub(crate) async fn observe(
    State(state): State<AppState>,
    mut request: Request,
    next: Next,
) -> Response {
    let id = RequestId::of(request.headers(), &state);
    let route = route_name(request.uri().path());
    let method = method_name(request.method());
    let span = tracing::info_span!(
        "request",
        id = %id.0,
        method,
        route,
        tenant = tracing::field::Empty
    );
    let trace = state.tracing.begin(method, route, &id.0, request.headers());
    let clock = Clock {
        started: Instant::now(),
        slow: Duration::from_millis(state.http.slow_request_ms),
        status: 0,
        span: span.clone(),
        trace: trace.clone(),
    };
    request.extensions_mut().insert(id.clone());
    request.extensions_mut().insert(trace);
    let mut response = next.run(request).instrument(span).await;
    let seconds = clock.started.elapsed().as_secs_f64();
    let status = response.status().as_u16();
    state.metrics.http(route, method, status, seconds);
    if let Ok(id) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    clock.follow(response)
}

/// The route of a path. Paths are as many as clients can think of, so that only known ones become
/// labels.
fn route_name(path: &str) -> &'static str {
    const ROUTES: [&str; 14] = [
        "/",
        "/health",
        "/metrics",
        "/openapi.json",
        "/page.css",
        "/page.js",
        "/ready",
        "/tokenize",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/load_lora_adapter",
        "/v1/models",
        "/v1/unload_lora_adapter",
    ];
    match ROUTES.iter().find(|route| **route == path) {
        Some(route) => route,
        None if path.starts_with("/v1/models/") => "/v1/models/{id}",
        None if path == "/docs" || path.starts_with("/docs/") => "/docs",
        None => "unknown",
    }
}

/// Methods by name; those that no route knows are one.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// Tells the log of a request when it is over: with its head, or with the end of its stream.
struct Clock {
    started: Instant,
    slow: Duration,
    status: u16,
    span: Span,
    trace: Trace,
}

impl Clock {
    fn follow(mut self, response: Response) -> Response {
        self.status = response.status().as_u16();
        let kind = response.headers().get(CONTENT_TYPE);
        let streams = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        if !streams {
            return response;
        }
        response.map(|body| {
            let span = self.span.clone();
            Body::from_stream(body.into_data_stream().map(move |piece| {
                // The clock stops with the stream that holds it.
                let _running = &self;
                let _entered = span.enter();
                piece
            }))
        })
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        let elapsed = self.started.elapsed();
        self.trace.end(self.status);
        let _entered = self.span.enter();
        let (ms, status) = (elapsed.as_millis(), self.status);
        if elapsed > self.slow {
            tracing::warn!(ms, status, "slow request");
        } else {
            tracing::info!(ms, status, "done");
        }
    }
}
