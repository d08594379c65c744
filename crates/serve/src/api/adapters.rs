//! `/v1/load_lora_adapter` and `/v1/unload_lora_adapter`.

use serde::Deserialize;
use utoipa::ToSchema;

/// An adapter to load.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct LoadLoraRequest {
    /// The name that requests will pick it by.
    pub(crate) lora_name: String,
    /// Its folder, under the folder that the server was given for adapters.
    pub(crate) lora_path: String,
    /// Whether it may take the place of an adapter of the same name.
    #[serde(default)]
    pub(crate) load_inplace: bool,
}

/// An adapter to unload.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct UnloadLoraRequest {
    /// Its name.
    pub(crate) lora_name: String,
}
