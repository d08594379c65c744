//! The configuration of `LoHa`, under PEFT's names and with PEFT's defaults.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::LoHaLinear;
use crate::build::{
    Build, MethodConfig, Modules, RankedBuilder, common_field, largest, usual_targets,
};
use crate::check;
use crate::config::{CommonConfig, number, number_map};
use crate::error::Result;
use crate::slots::LinearMethod;
use crate::targets::{OneOrMany, Ranks, TargetModules};

/// The configuration of `LoHa`.
///
/// # Source
/// - reference: peft `tuners/loha/config.py::LoHaConfig` 0.21
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoHaConfig {
    /// The fields that every method has.
    #[serde(flatten)]
    pub common: CommonConfig,
    /// The rank.
    pub r: usize,
    /// The numerator of the scaling `alpha / r`.
    #[serde(with = "number")]
    pub alpha: f64,
    /// The probability of dropping an output of the update in training.
    pub rank_dropout: f64,
    /// The probability of dropping the whole update in training.
    pub module_dropout: f64,
    /// For convolutions; without effect on linear layers.
    pub use_effective_conv2d: bool,
    /// The modules to adapt.
    pub target_modules: Option<TargetModules>,
    /// Modules that are left out even if `target_modules` matches them.
    pub exclude_modules: Option<TargetModules>,
    /// Begins with the base's output; with all factors random otherwise.
    pub init_weights: bool,
    /// The layers to adapt; all of them when absent.
    pub layers_to_transform: Option<OneOrMany<usize>>,
    /// The name of the list of layers, when the first number in a name is not the layer's.
    pub layers_pattern: Option<OneOrMany<String>>,
    /// Ranks of modules that differ from `r`, by regular expressions on the ends of names; the
    /// first in sorted order that matches counts.
    pub rank_pattern: BTreeMap<String, usize>,
    /// Numerators that differ from `alpha`, likewise.
    #[serde(with = "number_map")]
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Modules of which a full copy is trained and saved.
    pub modules_to_save: Option<Vec<String>>,
    /// Everything else in the file, kept as it is.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Default for LoHaConfig {
    fn default() -> Self {
        Self {
            common: CommonConfig::default(),
            r: 8,
            alpha: 8.0,
            rank_dropout: 0.0,
            module_dropout: 0.0,
            use_effective_conv2d: false,
            init_weights: true,
            target_modules: None,
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: None,
            modules_to_save: None,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            extra: Map::new(),
        }
    }
}

impl MethodConfig for LoHaConfig {
    common_field!();

    fn validate(&self) -> Result<()> {
        check::given(self.target_modules.as_ref())?;
        check::ranks(self.r, &self.rank_pattern)?;
        check::alphas("alpha", self.alpha, &self.alpha_pattern)?;
        check::dropout("rank_dropout", self.rank_dropout)?;
        check::dropout("module_dropout", self.module_dropout)
    }

    usual_targets!();

    fn largest_rank(&self) -> usize {
        largest(self.r, &self.rank_pattern)
    }

    fn builder(&self, modules: &Modules<'_>) -> Result<Box<dyn Build + '_>> {
        Ok(Box::new(RankedBuilder {
            method: "LoHa",
            config: self,
            ranks: Ranks::new(
                (self.r, &self.rank_pattern),
                (self.alpha, &self.alpha_pattern),
                &modules.adapted_paths(),
            )?,
            part: |config, base, rank, keys| {
                LinearMethod::LoHa(LoHaLinear::init(config, base, rank, keys))
            },
        }))
    }
}
