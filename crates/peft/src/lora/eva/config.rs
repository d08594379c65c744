//! The options of EVA.

use serde::{Deserialize, Serialize};

use crate::check::invalid;
use crate::error::Result;

/// The options of EVA, under PEFT's names and with PEFT's defaults.
///
/// # Source
/// - reference: peft `tuners/lora/config.py::EvaConfig` 0.21
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EvaConfig {
    /// How many times its rank a layer may have after ranks were handed out anew; at least 1, which
    /// leaves every layer its rank.
    pub rho: f64,
    /// The cosine between a direction before and after a batch from which on it counts as found.
    pub tau: f64,
    /// Whether tokens that are not supervised are left out; for whoever says which tokens count.
    pub use_label_mask: bool,
    /// The label of such tokens.
    pub label_mask_value: i64,
    /// Whether directions are divided by the root of their singular value.
    pub whiten: bool,
    /// Whether `lora_alpha` of a layer follows its new rank, so that the scaling stays.
    pub adjust_scaling_factors: bool,
}

impl Default for EvaConfig {
    fn default() -> Self {
        Self {
            rho: 2.0,
            tau: 0.99,
            use_label_mask: true,
            label_mask_value: -100,
            whiten: false,
            adjust_scaling_factors: true,
        }
    }
}

impl EvaConfig {
    pub(crate) fn validate(&self) -> Result<()> {
        let Self { rho, tau, .. } = *self;
        if !(rho >= 1.0 && rho.is_finite()) {
            let reason = format!("must be at least 1 and finite, got {rho}");
            return Err(invalid("rho", reason));
        }
        if !(0.0..=1.0).contains(&tau) {
            return Err(invalid("tau", format!("must be in [0, 1], got {tau}")));
        }
        Ok(())
    }
}
