//! `GET /v1/models`, and which model a request means.

use axum::Json;
use axum::extract::{Path, State};

use crate::api::{ApiError, ErrorBody, ModelInfo, ModelList};
use crate::state::AppState;

impl AppState {
    /// The adapter that a name means; `None` for the base.
    pub(crate) fn resolve(&self, model: &str) -> Result<Option<String>, ApiError> {
        if model == self.model.name {
            return Ok(None);
        }
        if self
            .encoder
            .as_ref()
            .is_some_and(|encoder| encoder.name == model)
        {
            return Err(ApiError::invalid_param(
                "model",
                format!("the model `{model}` is an encoder; it answers /v1/embeddings"),
            ));
        }
        if self.is_adapter(model) {
            return Ok(Some(model.to_owned()));
        }
        Err(ApiError::unknown_model(model))
    }

    /// Whether there is an adapter of this name.
    pub(crate) fn is_adapter(&self, name: &str) -> bool {
        let adapters = self.model.backend.adapters();
        adapters.iter().any(|adapter| adapter.name == name)
    }

    /// The base, the adapters and the encoder.
    pub(crate) fn models(&self) -> Vec<ModelInfo> {
        let base = &self.model;
        let info = |id: &str, root: &str, parent: Option<&str>, context| ModelInfo {
            id: id.to_owned(),
            object: "model",
            created: self.started,
            owned_by: "flametune",
            root: root.to_owned(),
            parent: parent.map(str::to_owned),
            max_model_len: context,
        };
        let mut models = vec![info(&base.name, &base.name, None, base.context)];
        for adapter in base.backend.adapters() {
            let name = adapter.name.as_str();
            models.push(info(name, &base.name, Some(&base.name), base.context));
        }
        if let Some(encoder) = &self.encoder {
            let most = encoder.embedder.max_tokens();
            models.push(info(&encoder.name, &encoder.name, None, most));
        }
        models
    }
}

/// List the base and its adapters
#[utoipa::path(
    get,
    path = "/v1/models",
    tag = "models",
    responses(
        (status = 200, description = "All models", body = ModelList),
        (status = 401, description = "There is no such key", body = ErrorBody),
    ),
    security((), ("key" = [])),
)]
pub(crate) async fn list(State(state): State<AppState>) -> Json<ModelList> {
    Json(ModelList {
        object: "list",
        data: state.models(),
    })
}

/// Tell of one model
#[utoipa::path(
    get,
    path = "/v1/models/{id}",
    tag = "models",
    params(("id" = String, Path, description = "The model's name")),
    responses(
        (status = 200, description = "The model", body = ModelInfo),
        (status = 400, description = "The name is not text", body = ErrorBody),
        (status = 401, description = "There is no such key", body = ErrorBody),
        (status = 404, description = "There is no such model", body = ErrorBody),
    ),
    security((), ("key" = [])),
)]
pub(crate) async fn one(
    State(state): State<AppState>,
    id: Result<Path<String>, axum::extract::rejection::PathRejection>,
) -> Result<Json<ModelInfo>, ApiError> {
    let Ok(Path(id)) = id else {
        return Err(ApiError::invalid_param("model", "the name is not text"));
    };
    let mut models = state.models().into_iter();
    let found = models.find(|model| model.id == id);
    found.map(Json).ok_or_else(|| ApiError::unknown_model(&id))
}
