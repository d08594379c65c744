//! LoRA and what shares its two factors: rsLoRA, DoRA, LoRA+.

mod build;
mod config;
mod dora;
mod embedding;
mod eva;
mod init;
mod linear;
mod loftq;
mod plus;
mod qera;

pub use config::{InitLoraWeights, LoraConfig};
pub use embedding::LoraEmbedding;
pub use eva::{EvaConfig, EvaInit, InputObserver};
pub use linear::LoraLinear;
pub use loftq::LoftqConfig;
pub use plus::{LoraPlusConfig, LoraPlusGroup, lora_plus_groups};
pub use qera::{QeraInit, QeraReport};

pub(crate) use build::beside_lora;
pub(crate) use loftq::{begin_loftq, quantize_as_loftq};

use build::LoraBuilder;
