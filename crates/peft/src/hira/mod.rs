//! `HiRA`: a low-rank matrix multiplied elementwise with the weight.

mod config;
mod linear;

pub use config::{HiraConfig, InitHiraWeights};
pub use linear::HiraLinear;
