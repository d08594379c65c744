//! The configuration of tuning normalisations, under PEFT's names and with PEFT's defaults.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::LnTuningBuilder;
use crate::build::{Build, MethodConfig, Modules, common_field};
use crate::check;
use crate::config::CommonConfig;
use crate::error::Result;
use crate::targets::{OneOrMany, TargetModules, Targeting};

/// The configuration of tuning normalisations.
///
/// # Source
/// - reference: peft `tuners/ln_tuning/config.py::LNTuningConfig` 0.21
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LnTuningConfig {
    /// The fields that every method has.
    #[serde(flatten)]
    pub common: CommonConfig,
    /// The modules to adapt.
    pub target_modules: Option<TargetModules>,
    /// Modules that are left out even if `target_modules` matches them.
    pub exclude_modules: Option<TargetModules>,
    /// Modules of which a full copy is trained and saved.
    pub modules_to_save: Option<OneOrMany<String>>,
    /// Everything else in the file, kept as it is.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Default for LnTuningConfig {
    fn default() -> Self {
        Self {
            common: CommonConfig::default(),
            target_modules: None,
            exclude_modules: None,
            modules_to_save: None,
            extra: Map::new(),
        }
    }
}

impl MethodConfig for LnTuningConfig {
    common_field!();

    fn validate(&self) -> Result<()> {
        check::given(self.target_modules.as_ref())
    }

    fn targeting(&self) -> Targeting<'_> {
        Targeting {
            target_modules: self.target_modules.as_ref(),
            exclude_modules: self.exclude_modules.as_ref(),
            modules_to_save: self
                .modules_to_save
                .as_ref()
                .map_or(&[], OneOrMany::as_slice),
            optional_heads: self.common.optional_heads(),
            ..Targeting::default()
        }
    }

    fn builder(&self, _modules: &Modules<'_>) -> Result<Box<dyn Build + '_>> {
        Ok(Box::new(LnTuningBuilder))
    }
}
