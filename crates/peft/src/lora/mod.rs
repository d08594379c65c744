//! LoRA and what shares its two factors: rsLoRA, DoRA, LoRA+.

mod build;
mod config;
mod dora;
mod embedding;
mod init;
mod linear;
mod plus;

pub use config::{InitLoraWeights, LoraConfig};
pub use embedding::LoraEmbedding;
pub use linear::LoraLinear;
pub use plus::{LoraPlusConfig, LoraPlusGroup, lora_plus_groups};

pub(crate) use build::beside_lora;

use build::LoraBuilder;
