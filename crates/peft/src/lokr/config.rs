//! The configuration of `LoKr`, under PEFT's names and with PEFT's defaults.

use serde::{Deserialize, Serialize};

use super::LoKrLinear;
use crate::build::{Build, MethodConfig, Modules, RankedBuilder};
use crate::check;
use crate::config::{CommonConfig, SwitchOrName};
use crate::error::Result;
use crate::lycoris::LycorisConfig;
use crate::slots::LinearMethod;
use crate::targets::Targeting;

/// The configuration of `LoKr`.
///
/// # Source
/// - reference: peft `tuners/lokr/config.py::LoKrConfig` 0.21
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoKrConfig {
    /// The fields that `LoHa` has as well.
    #[serde(flatten)]
    pub lycoris: LycorisConfig,
    /// Whether the first factor is of low rank too.
    pub decompose_both: bool,
    /// The wanted rows and columns of the first factor; −1 is near the root of the width.
    pub decompose_factor: i64,
    /// Whether the outputs that `rank_dropout` leaves are scaled to keep their mean.
    pub rank_dropout_scale: bool,
    /// How the factors begin.
    pub init_weights: InitLokrWeights,
}

impl Default for LoKrConfig {
    fn default() -> Self {
        Self {
            lycoris: LycorisConfig::default(),
            decompose_both: false,
            decompose_factor: -1,
            rank_dropout_scale: false,
            init_weights: InitLokrWeights::Default,
        }
    }
}

impl MethodConfig for LoKrConfig {
    fn common(&self) -> &CommonConfig {
        &self.lycoris.common
    }

    fn common_mut(&mut self) -> &mut CommonConfig {
        &mut self.lycoris.common
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
        self.lycoris.validate()
    }

    fn targeting(&self) -> Targeting<'_> {
        self.lycoris.targeting()
    }

    fn builder(&self, modules: &Modules<'_>) -> Result<Box<dyn Build + '_>> {
        Ok(Box::new(RankedBuilder {
            method: "LoKr",
            config: self,
            ranks: self.lycoris.ranks(&modules.adapted_paths())?,
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
