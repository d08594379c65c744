//! The configuration of `LoHa`, under PEFT's names and with PEFT's defaults.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::LoHaBuilder;
use crate::build::{Build, MethodConfig, Modules};
use crate::check;
use crate::config::{CommonConfig, number, number_map};
use crate::error::Result;
use crate::targets::{OneOrMany, TargetModules, Targeting};

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
    fn common(&self) -> &CommonConfig {
        &self.common
    }

    fn common_mut(&mut self) -> &mut CommonConfig {
        &mut self.common
    }

    fn validate(&self) -> Result<()> {
        check::given(self.target_modules.as_ref())?;
        check::rank("r", self.r)?;
        for &r in self.rank_pattern.values() {
            check::rank("rank_pattern", r)?;
        }
        check::scale("alpha", self.alpha)?;
        for &alpha in self.alpha_pattern.values() {
            check::scale("alpha_pattern", alpha)?;
        }
        check::dropout("rank_dropout", self.rank_dropout)?;
        check::dropout("module_dropout", self.module_dropout)
    }

    fn targeting(&self) -> Targeting<'_> {
        Targeting {
            target_modules: self.target_modules.as_ref(),
            exclude_modules: self.exclude_modules.as_ref(),
            layers_to_transform: self.layers_to_transform.as_ref(),
            layers_pattern: self.layers_pattern.as_ref(),
            modules_to_save: self.modules_to_save.as_deref().unwrap_or_default(),
            optional_heads: self.common.optional_heads(),
        }
    }

    fn builder(&self, modules: &Modules<'_>) -> Result<Box<dyn Build + '_>> {
        Ok(Box::new(LoHaBuilder::new(self, modules)?))
    }
}
