//! The configuration of `MiSS`, under PEFT's names and with PEFT's defaults.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::MissBuilder;
use crate::bias::{BiasMode, miss_bias};
use crate::build::{Build, MethodConfig, Modules, common_field, usual_targets};
use crate::check;
use crate::config::{CommonConfig, SwitchOrName};
use crate::error::Result;
use crate::targets::{OneOrMany, TargetModules};

/// The configuration of `MiSS`.
///
/// # Source
/// - reference: peft `tuners/miss/config.py::MissConfig` 0.21
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MissConfig {
    /// The fields that every method has.
    #[serde(flatten)]
    pub common: CommonConfig,
    /// The rows of the trained matrix: the inputs that share one row are `r` apart.
    pub r: usize,
    /// The probability of dropping an input in training.
    pub miss_dropout: f64,
    /// The columns of the trained matrix, for `init_weights = "mini"`.
    pub mini_r: usize,
    /// The modules to adapt.
    pub target_modules: Option<TargetModules>,
    /// Modules that are left out even if `target_modules` matches them.
    pub exclude_modules: Option<TargetModules>,
    /// Which form the trained matrix has; all but `false` begin with zeros.
    pub init_weights: InitMissWeights,
    /// The layers to adapt; all of them when absent.
    pub layers_to_transform: Option<OneOrMany<usize>>,
    /// The name of the list of layers, when the first number in a name is not the layer's.
    pub layers_pattern: Option<OneOrMany<String>>,
    /// Which biases of the base are trained.
    #[serde(with = "miss_bias")]
    pub bias: BiasMode,
    /// Modules of which a full copy is trained and saved.
    pub modules_to_save: Option<Vec<String>>,
    /// Everything else in the file, kept as it is.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Default for MissConfig {
    fn default() -> Self {
        Self {
            common: CommonConfig::default(),
            r: 64,
            miss_dropout: 0.0,
            mini_r: 1,
            init_weights: InitMissWeights::Zeros,
            bias: BiasMode::None,
            target_modules: None,
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: None,
            modules_to_save: None,
            extra: Map::new(),
        }
    }
}

impl MethodConfig for MissConfig {
    common_field!();

    fn validate(&self) -> Result<()> {
        match &self.init_weights {
            InitMissWeights::Other(name) => {
                let hint = "use true, false, bat or mini";
                return Err(check::unsupported("init_weights", name, hint));
            }
            InitMissWeights::Bat if self.miss_dropout > 0.0 => {
                let hint = "bat drops nothing";
                return Err(check::unsupported("miss_dropout", self.miss_dropout, hint));
            }
            _ => {}
        }
        check::given(self.target_modules.as_ref())?;
        check::rank("r", self.r)?;
        check::rank("mini_r", self.mini_r)?;
        check::dropout("miss_dropout", self.miss_dropout)
    }

    usual_targets!();

    fn bias(&self) -> BiasMode {
        self.bias
    }

    fn builder(&self, _modules: &Modules<'_>) -> Result<Box<dyn Build + '_>> {
        Ok(Box::new(MissBuilder::new(self)))
    }
}

/// Which form the trained matrix has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "SwitchOrName", into = "SwitchOrName")]
#[non_exhaustive]
pub enum InitMissWeights {
    /// `true`: a column for each output.
    Zeros,
    /// `false`: the same, with random numbers.
    Random,
    /// `"bat"`: a square block for each `r` outputs, which also multiplies the weight.
    Bat,
    /// `"mini"`: `mini_r` columns, which the outputs share in turn.
    Mini,
    /// A name that is not implemented; refused by validation.
    Other(String),
}

impl From<SwitchOrName> for InitMissWeights {
    fn from(wire: SwitchOrName) -> Self {
        match wire {
            SwitchOrName::Switch(Some(true)) => Self::Zeros,
            SwitchOrName::Switch(_) => Self::Random,
            SwitchOrName::Name(name) => match name.as_str() {
                "bat" => Self::Bat,
                "mini" => Self::Mini,
                _ => Self::Other(name),
            },
        }
    }
}

impl From<InitMissWeights> for SwitchOrName {
    fn from(init: InitMissWeights) -> Self {
        match init {
            InitMissWeights::Zeros => Self::ON,
            InitMissWeights::Random => Self::OFF,
            InitMissWeights::Bat => Self::name("bat"),
            InitMissWeights::Mini => Self::name("mini"),
            InitMissWeights::Other(name) => Self::Name(name),
        }
    }
}
