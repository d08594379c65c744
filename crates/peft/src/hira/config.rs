//! The configuration of `HiRA`, under PEFT's names and with PEFT's defaults.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::HiraBuilder;
use crate::build::{Build, MethodConfig, Modules};
use crate::check;
use crate::config::CommonConfig;
use crate::error::Result;
use crate::targets::{OneOrMany, TargetModules, Targeting};

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
    fn common(&self) -> &CommonConfig {
        &self.common
    }

    fn common_mut(&mut self) -> &mut CommonConfig {
        &mut self.common
    }

    fn validate(&self) -> Result<()> {
        if let InitHiraWeights::Other(name) = &self.init_weights {
            let hint = "use true, false or gaussian";
            return Err(check::unsupported("init_weights", name, hint));
        }
        check::given(self.target_modules.as_ref())?;
        check::rank("r", self.r)?;
        for &r in self.rank_pattern.values() {
            check::rank("rank_pattern", r)?;
        }
        check::dropout("hira_dropout", self.hira_dropout)
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
        Ok(Box::new(HiraBuilder::new(self, modules)?))
    }
}

/// How the factors begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Wire", into = "Wire")]
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

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Wire {
    Switch(Option<bool>),
    Name(String),
}

impl From<Wire> for InitHiraWeights {
    fn from(wire: Wire) -> Self {
        match wire {
            Wire::Switch(Some(true)) => Self::Kaiming,
            Wire::Switch(_) => Self::Random,
            Wire::Name(name) if name.eq_ignore_ascii_case("gaussian") => Self::Gaussian,
            Wire::Name(name) => Self::Other(name),
        }
    }
}

impl From<InitHiraWeights> for Wire {
    fn from(init: InitHiraWeights) -> Self {
        match init {
            InitHiraWeights::Kaiming => Self::Switch(Some(true)),
            InitHiraWeights::Random => Self::Switch(Some(false)),
            InitHiraWeights::Gaussian => Self::Name("gaussian".to_owned()),
            InitHiraWeights::Other(name) => Self::Name(name),
        }
    }
}
