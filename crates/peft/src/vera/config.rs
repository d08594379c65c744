//! The configuration of `VeRA`, under PEFT's names and with PEFT's defaults.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::VeraBuilder;
use crate::bias::{BiasMode, vera_bias};
use crate::build::{Build, MethodConfig, Modules, common_field};
use crate::check;
use crate::config::CommonConfig;
use crate::error::Result;
use crate::targets::{OneOrMany, TargetModules, Targeting};

/// The configuration of `VeRA`.
///
/// # Source
/// - reference: peft `tuners/vera/config.py::VeraConfig` 0.21
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VeraConfig {
    /// The fields that every method has.
    #[serde(flatten)]
    pub common: CommonConfig,
    /// The rank.
    pub r: usize,
    /// The modules to adapt.
    pub target_modules: Option<TargetModules>,
    /// The seed of the shared matrices, for torch's generator.
    pub projection_prng_key: u64,
    /// Whether the file carries the shared matrices; otherwise they are drawn again.
    pub save_projection: bool,
    /// The probability of dropping an input in training.
    pub vera_dropout: f64,
    /// What `vera_lambda_d` begins with.
    pub d_initial: f64,
    /// Whether the base is stored as `[d_in, d_out]`; kept as it is, because the layers know.
    pub fan_in_fan_out: bool,
    /// Which biases of the base are trained.
    #[serde(with = "vera_bias")]
    pub bias: BiasMode,
    /// Modules of which a full copy is trained and saved.
    pub modules_to_save: Option<Vec<String>>,
    /// Begins with the base's output; with ones and normal numbers otherwise.
    pub init_weights: bool,
    /// The layers to adapt; all of them when absent.
    pub layers_to_transform: Option<OneOrMany<usize>>,
    /// The name of the list of layers, when the first number in a name is not the layer's.
    pub layers_pattern: Option<OneOrMany<String>>,
    /// Everything else in the file, kept as it is.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Default for VeraConfig {
    fn default() -> Self {
        Self {
            common: CommonConfig::default(),
            r: 256,
            target_modules: None,
            projection_prng_key: 0,
            save_projection: true,
            vera_dropout: 0.0,
            d_initial: 0.1,
            fan_in_fan_out: false,
            bias: BiasMode::None,
            modules_to_save: None,
            init_weights: true,
            layers_to_transform: None,
            layers_pattern: None,
            extra: Map::new(),
        }
    }
}

impl MethodConfig for VeraConfig {
    common_field!();

    fn validate(&self) -> Result<()> {
        check::given(self.target_modules.as_ref())?;
        check::rank("r", self.r)?;
        check::dropout("vera_dropout", self.vera_dropout)?;
        check::finite("d_initial", self.d_initial)
    }

    fn targeting(&self) -> Targeting<'_> {
        Targeting {
            target_modules: self.target_modules.as_ref(),
            layers_to_transform: self.layers_to_transform.as_ref(),
            layers_pattern: self.layers_pattern.as_ref(),
            modules_to_save: self.modules_to_save.as_deref().unwrap_or_default(),
            optional_heads: self.common.optional_heads(),
            ..Targeting::default()
        }
    }

    fn bias(&self) -> BiasMode {
        self.bias
    }

    fn largest_rank(&self) -> usize {
        self.r
    }

    fn builder(&self, modules: &Modules<'_>) -> Result<Box<dyn Build + '_>> {
        Ok(Box::new(VeraBuilder::new(self, modules)))
    }
}
