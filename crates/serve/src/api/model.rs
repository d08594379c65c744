//! `/v1/models`.

use serde::Serialize;
use utoipa::ToSchema;

/// All models.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelList {
    pub(crate) object: &'static str,
    pub(crate) data: Vec<ModelInfo>,
}

/// A model: the base, an adapter on it, or the encoder.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelInfo {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    pub(crate) created: u64,
    pub(crate) owned_by: &'static str,
    /// The base, for an adapter.
    pub(crate) root: String,
    pub(crate) parent: Option<String>,
    /// Most tokens of prompt and answer together.
    pub(crate) max_model_len: usize,
}
