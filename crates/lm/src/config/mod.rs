//! `config.json`: what a checkpoint says of its own architecture.

mod decoder;
mod family;
mod fields;
mod rope;

pub use decoder::{Activation, BlockStyle, DecoderConfig, LayerConfig, MoeConfig, Norm, QkNorm};
pub use family::Family;
pub use fields::ConfigFile;
pub use rope::{RopeConfig, RopeScaling};
