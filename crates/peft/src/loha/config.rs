//! The configuration of `LoHa`, under PEFT's names and with PEFT's defaults.

use serde::{Deserialize, Serialize};

use super::LoHaLinear;
use crate::build::{Build, MethodConfig, Modules, RankedBuilder, largest};
use crate::config::CommonConfig;
use crate::error::Result;
use crate::lycoris::LycorisConfig;
use crate::slots::LinearMethod;
use crate::targets::Targeting;

/// The configuration of `LoHa`.
///
/// # Source
/// - reference: peft `tuners/loha/config.py::LoHaConfig` 0.21
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoHaConfig {
    /// The fields that `LoKr` has as well.
    #[serde(flatten)]
    pub lycoris: LycorisConfig,
    /// Begins with the base's output; with all factors random otherwise.
    pub init_weights: bool,
}

impl Default for LoHaConfig {
    fn default() -> Self {
        Self {
            lycoris: LycorisConfig::default(),
            init_weights: true,
        }
    }
}

impl MethodConfig for LoHaConfig {
    fn common(&self) -> &CommonConfig {
        &self.lycoris.common
    }

    fn common_mut(&mut self) -> &mut CommonConfig {
        &mut self.lycoris.common
    }

    fn validate(&self) -> Result<()> {
        self.lycoris.validate()
    }

    fn targeting(&self) -> Targeting<'_> {
        self.lycoris.targeting()
    }

    fn largest_rank(&self) -> usize {
        largest(self.lycoris.r, &self.lycoris.rank_pattern)
    }

    fn builder(&self, modules: &Modules<'_>) -> Result<Box<dyn Build + '_>> {
        Ok(Box::new(RankedBuilder {
            method: "LoHa",
            config: self,
            ranks: self.lycoris.ranks(&modules.adapted_paths())?,
            part: |config, base, rank, keys| {
                LinearMethod::LoHa(LoHaLinear::init(config, base, rank, keys))
            },
        }))
    }
}
