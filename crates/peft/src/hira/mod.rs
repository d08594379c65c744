//! `HiRA`: a low-rank matrix multiplied elementwise with the weight.

mod build;
mod config;
mod linear;

pub use config::{HiraConfig, InitHiraWeights};
pub use linear::HiraLinear;

use build::HiraBuilder;
