//! The configuration of `HiRA`, under PEFT's names and with PEFT's defaults.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::HiraLinear;
use crate::build::{
    Build, MethodConfig, Modules, RankedBuilder, common_field, largest, usual_targets,
};
use crate::check;
use crate::config::{CommonConfig, SwitchOrName};
use crate::error::Result;
use crate::slots::LinearMethod;
use crate::targets::{OneOrMany, Ranks, TargetModules};

/// The configuration of `HiRA`.
///
/// # Source
/// - reference: peft `tuners/hira/config.py::HiraConfig` 0.21
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HiraConfig {
    /// The fields that every method has.
    #[serde(flatten)]
    pub common: CommonConfig,
    /// The rank.
    pub r: usize,
    /// The modules to adapt.
    pub target_modules: Option<TargetModules>,
    /// Modules that are left out even if `target_modules` matches them.
    pub exclude_modules: Option<TargetModules>,
    /// The probability of dropping an input in training.
    pub hira_dropout: f64,
    /// Whether the base is stored as `[d_in, d_out]`; kept as it is, because the layers know.
    pub fan_in_fan_out: bool,
    /// Modules of which a full copy is trained and saved.
    pub modules_to_save: Option<Vec<String>>,
    /// How the factors begin.
    pub init_weights: InitHiraWeights,
    /// The layers to adapt; all of them when absent.
    pub layers_to_transform: Option<OneOrMany<usize>>,
    /// The name of the list of layers, when the first number in a name is not the layer's.
    pub layers_pattern: Option<OneOrMany<String>>,
    /// Ranks of modules that differ from `r`, by regular expressions on the ends of names; the
    /// first in sorted order that matches counts.
    pub rank_pattern: BTreeMap<String, usize>,
    /// Everything else in the file, kept as it is.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Default for HiraConfig {
    fn default() -> Self {
        Self {
            common: CommonConfig::default(),
            r: 32,
            hira_dropout: 0.0,
            fan_in_fan_out: false,
            init_weights: InitHiraWeights::Kaiming,
            target_modules: None,
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: None,
            modules_to_save: None,
            rank_pattern: BTreeMap::new(),
            extra: Map::new(),
        }
    }
}

impl MethodConfig for HiraConfig {
    common_field!();

    fn validate(&self) -> Result<()> {
        if let InitHiraWeights::Other(name) = &self.init_weights {
            let hint = "use true, false or gaussian";
            return Err(check::unsupported("init_weights", name, hint));
        }
        check::given(self.target_modules.as_ref())?;
        check::ranks(self.r, &self.rank_pattern)?;
        check::dropout("hira_dropout", self.hira_dropout)
    }

    usual_targets!();

    fn largest_rank(&self) -> usize {
        largest(self.r, &self.rank_pattern)
    }

    fn builder(&self, modules: &Modules<'_>) -> Result<Box<dyn Build + '_>> {
        Ok(Box::new(RankedBuilder {
            method: "HiRA",
            config: self,
            // The update has no scaling.
            ranks: Ranks::new(
                (self.r, &self.rank_pattern),
                (1.0, &BTreeMap::new()),
                &modules.adapted_paths(),
            )?,
            part: |config, base, (r, _), keys| {
                LinearMethod::Hira(HiraLinear::init(config, base, r, keys))
            },
        }))
    }
}

/// How the factors begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "SwitchOrName", into = "SwitchOrName")]
#[non_exhaustive]
pub enum InitHiraWeights {
    /// `true`: `A` uniform as torch's linear layers, `B` zero.
    Kaiming,
    /// `"gaussian"`: `A` normal with deviation `1/r`, `B` zero.
    Gaussian,
    /// `false` or `null`: both normal, so that the adapter changes the output from the start.
    Random,
    /// A name that is not implemented; refused by validation.
    Other(String),
}

impl From<SwitchOrName> for InitHiraWeights {
    fn from(wire: SwitchOrName) -> Self {
        match wire {
            SwitchOrName::Switch(Some(true)) => Self::Kaiming,
            SwitchOrName::Switch(_) => Self::Random,
            SwitchOrName::Name(name) if name.eq_ignore_ascii_case("gaussian") => Self::Gaussian,
            SwitchOrName::Name(name) => Self::Other(name),
        }
    }
}

impl From<InitHiraWeights> for SwitchOrName {
    fn from(init: InitHiraWeights) -> Self {
        match init {
            InitHiraWeights::Kaiming => Self::ON,
            InitHiraWeights::Random => Self::OFF,
            InitHiraWeights::Gaussian => Self::name("gaussian"),
            InitHiraWeights::Other(name) => Self::Name(name),
        }
    }
}
