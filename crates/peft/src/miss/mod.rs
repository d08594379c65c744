//! `MiSS`: one small matrix whose rows are shared by inputs, and its variants bat and mini.

mod build;
mod config;
mod linear;

pub use config::{InitMissWeights, MissConfig};
pub use linear::{MissBlock, MissLinear};

use build::MissBuilder;
