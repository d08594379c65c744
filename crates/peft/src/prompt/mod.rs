//! Virtual tokens: vectors in front of the input, or keys and values in front of every layer's.
//!
//! ```text
//! prompt tuning   embedding [n, d_model]                         ─→ in front of the embeddings
//! P-tuning        embedding ─→ MLP, or LSTM and MLP              ─→ in front of the embeddings
//! prefix tuning   embedding [n, 2·layers·kv_width], or projected ─→ in front of keys and values
//! ```
//!
//! What is stored for use is always the table that comes out (`prompt_embeddings`), as PEFT does: the
//! encoder that made it serves training alone, and a loaded adapter has none.
//! Beside it lies the encoder in a file of its own, so that a training can go on.

mod affine;
mod build;
mod config;
mod encoder;
mod lstm;
mod place;
mod stored;

pub use config::{
    PrefixInit, PrefixTuningConfig, PromptEncoderConfig, PromptEncoderReparameterizationType,
    PromptTuningConfig, PromptTuningInit, VirtualTokenConfig,
};
pub use encoder::PromptEncoder;
pub use place::{
    AdapterPrompt, PrefixKeysValues, PromptMethod, PromptPlace, PromptShape, PromptSlot,
    VirtualTokens,
};

pub(crate) use build::PromptBuilder;

/// The key of the table in an adapter's file; it stands alone, without the name of a module.
pub(crate) const PROMPT_EMBEDDINGS: &str = "prompt_embeddings";
