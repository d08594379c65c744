//! `POST /v1/load_lora_adapter` and `/v1/unload_lora_adapter`, as in vLLM.

use axum::extract::State;

use crate::api::{ApiError, ErrorBody, LoadLoraRequest, UnloadLoraRequest};
use crate::auth::Tenant;
use crate::extract::ApiJson;
use crate::folders::{check_name, under_root};
use crate::prompt::blocking;
use crate::state::AppState;

/// Load an adapter
///
/// Requests that run keep the adapter they began with.
#[utoipa::path(
    post,
    path = "/v1/load_lora_adapter",
    tag = "models",
    request_body = LoadLoraRequest,
    responses(
        (status = 200, description = "It is loaded", body = String, content_type = "text/plain"),
        (status = 400, description = "It cannot be loaded", body = ErrorBody),
        (status = 401, description = "There is no such key", body = ErrorBody),
        (status = 403, description = "The key may not load adapters", body = ErrorBody),
        (status = 404, description = "There is no such folder", body = ErrorBody),
        (status = 413, description = "The body is too large", body = ErrorBody),
        (status = 415, description = "The body is not announced as JSON", body = ErrorBody),
        (status = 503, description = "There is no room for it", body = ErrorBody),
    ),
    security((), ("key" = [])),
)]
pub(crate) async fn load(
    State(state): State<AppState>,
    tenant: Tenant,
    ApiJson(request): ApiJson<LoadLoraRequest>,
) -> Result<String, ApiError> {
    require_admin(&tenant)?;
    let Some(root) = state.adapter_root.clone() else {
        return Err(ApiError::forbidden(
            "this server loads no adapters on request: it was given no folder for them",
        ));
    };
    let name = request.lora_name;
    check_name(&name)?;
    let taken = name == state.model.name
        || state
            .encoder
            .as_ref()
            .is_some_and(|encoder| encoder.name == name);
    if taken || (!request.load_inplace && state.is_adapter(&name)) {
        let message = format!("the model `{name}` is there already");
        return Err(ApiError::invalid_param("lora_name", message));
    }
    let path = request.lora_path;
    let folder = blocking(move || under_root(&root, &path)).await?;
    let backend = &state.model.backend;
    match backend.load_adapter(name.clone(), folder).await {
        Ok(info) => {
            tracing::info!(
                adapter = %name,
                generation = info.generation,
                bytes = info.bytes,
                "adapter loaded"
            );
            for warning in &info.warnings {
                tracing::warn!(adapter = %name, "{warning}");
            }
            Ok(format!(
                "Success: LoRA adapter '{name}' added successfully."
            ))
        }
        Err(flametune_infer::Error::Peft(error)) => {
            // What is wrong with the files names them, and belongs into the log alone.
            tracing::warn!(adapter = %name, %error, "adapter refused");
            Err(ApiError::invalid_param(
                "lora_path",
                "the folder holds no adapter for this model; the server's log says why",
            ))
        }
        Err(error) => Err(error.into()),
    }
}

/// Unload an adapter
///
/// Later requests do not find it; those that run are finished first.
#[utoipa::path(
    post,
    path = "/v1/unload_lora_adapter",
    tag = "models",
    request_body = UnloadLoraRequest,
    responses(
        (status = 200, description = "It is unloaded", body = String, content_type = "text/plain"),
        (status = 400, description = "The body is not what is expected", body = ErrorBody),
        (status = 401, description = "There is no such key", body = ErrorBody),
        (status = 403, description = "The key may not unload adapters", body = ErrorBody),
        (status = 404, description = "There is no such adapter", body = ErrorBody),
        (status = 413, description = "The body is too large", body = ErrorBody),
        (status = 415, description = "The body is not announced as JSON", body = ErrorBody),
    ),
    security((), ("key" = [])),
)]
pub(crate) async fn unload(
    State(state): State<AppState>,
    tenant: Tenant,
    ApiJson(request): ApiJson<UnloadLoraRequest>,
) -> Result<String, ApiError> {
    require_admin(&tenant)?;
    let name = request.lora_name;
    if !state.is_adapter(&name) {
        return Err(ApiError::unknown_model(&name).with_param("lora_name"));
    }
    state.model.backend.unload_adapter(name.clone()).await?;
    state.limiter.forget(&name);
    tracing::info!(adapter = %name, "adapter unloaded");
    Ok(format!(
        "Success: LoRA adapter '{name}' removed successfully."
    ))
}

fn require_admin(tenant: &Tenant) -> Result<(), ApiError> {
    if tenant.admin {
        return Ok(());
    }
    Err(ApiError::forbidden(
        "this key may not load and unload adapters",
    ))
}
