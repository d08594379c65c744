//! The configuration of `LoKr`, under PEFT's names and with PEFT's defaults.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::LoKrLinear;
use crate::build::{Build, MethodConfig, Modules, RankedBuilder, common_field, usual_targets};
use crate::check;
use crate::config::{CommonConfig, SwitchOrName, number, number_map};
use crate::error::Result;
use crate::slots::LinearMethod;
use crate::targets::{OneOrMany, Ranks, TargetModules};

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
    common_field!();

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
        check::ranks(self.r, &self.rank_pattern)?;
        check::alphas("alpha", self.alpha, &self.alpha_pattern)?;
        check::dropout("rank_dropout", self.rank_dropout)?;
        check::dropout("module_dropout", self.module_dropout)
    }

    usual_targets!();

    fn builder(&self, modules: &Modules<'_>) -> Result<Box<dyn Build + '_>> {
        Ok(Box::new(RankedBuilder {
            method: "LoKr",
            config: self,
            ranks: Ranks::new(
                (self.r, &self.rank_pattern),
                (self.alpha, &self.alpha_pattern),
                &modules.adapted_paths(),
            )?,
            part: |config, base, rank, keys| {
                LinearMethod::LoKr(LoKrLinear::init(config, base, rank, keys))
            },
        }))
    }
}

/// How the factors begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "SwitchOrName", into = "SwitchOrName")]
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

impl From<SwitchOrName> for InitLokrWeights {
    fn from(wire: SwitchOrName) -> Self {
        match wire {
            SwitchOrName::Switch(Some(true)) => Self::Default,
            SwitchOrName::Switch(_) => Self::Random,
            SwitchOrName::Name(name) if name == "lycoris" => Self::Lycoris,
            SwitchOrName::Name(name) => Self::Other(name),
        }
    }
}

impl From<InitLokrWeights> for SwitchOrName {
    fn from(init: InitLokrWeights) -> Self {
        match init {
            InitLokrWeights::Default => Self::ON,
            InitLokrWeights::Random => Self::OFF,
            InitLokrWeights::Lycoris => Self::name("lycoris"),
            InitLokrWeights::Other(name) => Self::Name(name),
        }
    }
}
