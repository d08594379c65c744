//! Trained copies of normalisations.

mod build;
mod config;
mod norm;

pub use config::LnTuningConfig;
pub use norm::LnTuningNorm;

use build::LnTuningBuilder;
