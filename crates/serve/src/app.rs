//! All routes, and what stands around them.

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tower_http::cors::{AllowOrigin, CorsLayer};
use utoipa_swagger_ui::SwaggerUi;

use crate::api::ApiError;
use crate::auth::require_key;
use crate::observe::observe;
use crate::openapi::{guarded, open, openapi};
use crate::page;
use crate::state::AppState;

/// All routes over a state.
///
/// Nothing is bound and nothing runs beside it: tests call it as a service.
pub fn app(state: AppState) -> Router {
    let (guarded, _) = guarded().split_for_parts();
    let (open, _) = open().split_for_parts();
    let guarded = guarded.route_layer(from_fn_with_state(state.clone(), require_key));
    let swagger = Router::from(SwaggerUi::new("/docs").url("/openapi.json", openapi()));
    let pages = Router::new()
        .route("/", get(page::index))
        .route("/page.js", get(page::script))
        .route("/page.css", get(page::style));
    let mut router = Router::new()
        .merge(guarded)
        .merge(open)
        .merge(pages)
        .merge(swagger)
        .fallback(unknown_route)
        .method_not_allowed_fallback(unknown_method)
        .layer(DefaultBodyLimit::max(state.http.max_body_bytes));
    if let Some(cors) = cors(&state.http.allowed_origins) {
        router = router.layer(cors);
    }
    router
        .layer(from_fn(no_sniffing))
        .layer(from_fn_with_state(state.clone(), observe))
        .with_state(state)
}

/// Lets pages of these origins call the server; without one, browsers keep all others away.
fn cors(origins: &[String]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let origin = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        let origins = origins
            .iter()
            .filter_map(|origin| HeaderValue::from_str(origin).ok());
        AllowOrigin::list(origins)
    };
    Some(
        CorsLayer::new()
            .allow_origin(origin)
            .allow_methods([Method::GET, Method::POST])
            .allow_headers([AUTHORIZATION, CONTENT_TYPE]),
    )
}

/// Answers are what they say they are, whatever stands in them.
async fn no_sniffing(request: Request, next: axum::middleware::Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    response
}

async fn unknown_route() -> Response {
    ApiError::with_status(StatusCode::NOT_FOUND, "there is no such route").into_response()
}

async fn unknown_method() -> Response {
    let status = StatusCode::METHOD_NOT_ALLOWED;
    ApiError::with_status(status, "this route knows another method").into_response()
}
