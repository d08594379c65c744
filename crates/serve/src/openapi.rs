//! The interface, described for programs.

use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::routes::{adapters, chat, completions, embeddings, models, probes, tokenize};
use crate::state::AppState;

/// The routes for which a key is needed, where there are keys.
pub(crate) fn guarded() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(chat::chat))
        .routes(routes!(completions::completions))
        .routes(routes!(embeddings::embeddings))
        .routes(routes!(models::list))
        .routes(routes!(models::one))
        .routes(routes!(tokenize::tokenize))
        .routes(routes!(adapters::load))
        .routes(routes!(adapters::unload))
}

/// The routes that need none.
pub(crate) fn open() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(probes::health))
        .routes(routes!(probes::ready))
        .routes(routes!(probes::metrics))
}

/// The OpenAPI description of all routes but the pages.
#[must_use]
pub fn openapi() -> OpenApi {
    let mut api = guarded().get_openapi().clone();
    api.merge(open().get_openapi().clone());
    api.info.title = "Flametune".to_owned();
    api.info.version = env!("CARGO_PKG_VERSION").to_owned();
    api.info.description =
        Some("One base model and many adapters behind the HTTP interface of OpenAI.".to_owned());
    let key = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    let components = api.components.get_or_insert_default();
    components.add_security_scheme("key", SecurityScheme::Http(key));
    api
}
