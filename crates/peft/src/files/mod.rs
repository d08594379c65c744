//! `adapter_config.json` and `adapter_model.safetensors`, as PEFT writes and reads them.

mod convert;
mod load;
mod pair;
mod save;

pub use convert::convert_adapter;
pub use load::{load_adapter, read_config, resume_adapter};
pub(crate) use pair::PendingFiles;
pub use save::{adapter_tensors, save_adapter};

/// The configuration of an adapter.
pub(crate) const CONFIG_FILE: &str = "adapter_config.json";

/// Its parameters.
pub(crate) const WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// What makes its virtual tokens, where that is no table; PEFT does not look at it.
pub(crate) const ENCODER_FILE: &str = "flametune_encoder.safetensors";

/// What stands before the name of a module in every key.
pub(crate) const PREFIX: &str = "base_model.model.";

/// What stands before the name of a tensor that all modules share.
pub(crate) const SHARED_PREFIX: &str = "base_model.";

/// Names of embeddings and heads whose base PEFT stores with an adapter that names them.
pub(crate) const EMBEDDING_LAYER_NAMES: &[&str] = &["embed_tokens", "lm_head"];

/// The key of the base's weight under an adapter.
pub(crate) const BASE_WEIGHT: &str = "base_layer.weight";
