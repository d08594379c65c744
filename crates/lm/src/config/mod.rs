//! `config.json`: what a checkpoint says of its own architecture.

mod decoder;
mod family;
mod fields;
mod quantization;
mod rope;

pub(crate) use quantization::{Stored, contradicts, stored_kind, with_quantization};

pub use decoder::{Activation, BlockStyle, DecoderConfig, LayerConfig, MoeConfig, QkNorm};
pub use family::Family;
pub use fields::ConfigFile;
pub use rope::{RopeConfig, RopeScaling};
