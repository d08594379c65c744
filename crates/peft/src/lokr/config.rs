//! The configuration of `LoKr`, under PEFT's names and with PEFT's defaults.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::LoKrBuilder;
use crate::build::{Build, MethodConfig, Modules};
use crate::check;
use crate::config::{CommonConfig, number, number_map};
use crate::error::Result;
use crate::targets::{OneOrMany, TargetModules, Targeting};

/// The configuration of `LoKr`.
///
/// # Source
/// - reference: peft `tuners/lokr/config.py::LoKrConfig` 0.21
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoKrConfig {
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
    /// Whether the first factor is of low rank too.
    pub decompose_both: bool,
    /// The wanted rows and columns of the first factor; −1 is near the root of the width.
    pub decompose_factor: i64,
    /// Whether the outputs that `rank_dropout` leaves are scaled to keep their mean.
    pub rank_dropout_scale: bool,
    /// The modules to adapt.
    pub target_modules: Option<TargetModules>,
    /// Modules that are left out even if `target_modules` matches them.
    pub exclude_modules: Option<TargetModules>,
    /// How the factors begin.
    pub init_weights: InitLokrWeights,
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

impl Default for LoKrConfig {
    fn default() -> Self {
        Self {
            common: CommonConfig::default(),
            r: 8,
            alpha: 8.0,
            rank_dropout: 0.0,
            module_dropout: 0.0,
            use_effective_conv2d: false,
            decompose_both: false,
            decompose_factor: -1,
            rank_dropout_scale: false,
            init_weights: InitLokrWeights::Default,
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

impl MethodConfig for LoKrConfig {
    fn common(&self) -> &CommonConfig {
        &self.common
    }

    fn common_mut(&mut self) -> &mut CommonConfig {
        &mut self.common
    }

    fn validate(&self) -> Result<()> {
        if let InitLokrWeights::Other(name) = &self.init_weights {
            let hint = "use true, false or lycoris";
            return Err(check::unsupported("init_weights", name, hint));
        }
        if self.decompose_factor < -1 || self.decompose_factor == 0 {
            let got = self.decompose_factor;
            return Err(check::invalid(
                "decompose_factor",
                format!("must be -1 or at least 1, got {got}"),
            ));
        }
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
        Ok(Box::new(LoKrBuilder::new(self, modules)?))
    }
}

/// How the factors begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Wire", into = "Wire")]
#[non_exhaustive]
pub enum InitLokrWeights {
    /// `true`: the first factor is zero.
    Default,
    /// `false`: both are random, so that the adapter changes the output from the start.
    Random,
    /// `"lycoris"`: the second factor is zero.
    Lycoris,
    /// A name that is not implemented; refused by validation.
    Other(String),
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Wire {
    Switch(bool),
    Name(String),
}

impl From<Wire> for InitLokrWeights {
    fn from(wire: Wire) -> Self {
        match wire {
            Wire::Switch(true) => Self::Default,
            Wire::Switch(false) => Self::Random,
            Wire::Name(name) if name == "lycoris" => Self::Lycoris,
            Wire::Name(name) => Self::Other(name),
        }
    }
}

impl From<InitLokrWeights> for Wire {
    fn from(init: InitLokrWeights) -> Self {
        match init {
            InitLokrWeights::Default => Self::Switch(true),
            InitLokrWeights::Random => Self::Switch(false),
            InitLokrWeights::Lycoris => Self::Name("lycoris".to_owned()),
            InitLokrWeights::Other(name) => Self::Name(name),
        }
    }
}
