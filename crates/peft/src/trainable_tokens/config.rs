//! The configuration of training single rows of an embedding, under PEFT's names and with PEFT's defaults.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::TokensBuilder;
use super::indices::check_tokens;
use crate::build::{Build, MethodConfig, Modules, common_field};
use crate::config::CommonConfig;
use crate::error::Result;
use crate::targets::{TargetModules, Targeting};

/// The configuration of training single rows of an embedding.
///
/// # Source
/// - reference: peft `tuners/trainable_tokens/config.py::TrainableTokensConfig` 0.21
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainableTokensConfig {
    /// The fields that every method has.
    #[serde(flatten)]
    pub common: CommonConfig,
    /// The tokens whose rows are trained.
    pub token_indices: Vec<usize>,
    /// The embeddings to adapt; that of the input when absent.
    pub target_modules: Option<TargetModules>,
    /// Begins with the rows of the base; with normal numbers otherwise.
    pub init_weights: bool,
    /// Everything else in the file, kept as it is.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Default for TrainableTokensConfig {
    fn default() -> Self {
        Self {
            common: CommonConfig::default(),
            token_indices: Vec::new(),
            target_modules: None,
            init_weights: true,
            extra: Map::new(),
        }
    }
}

impl MethodConfig for TrainableTokensConfig {
    common_field!();

    fn validate(&self) -> Result<()> {
        check_tokens("token_indices", &self.token_indices)
    }

    fn targeting(&self) -> Targeting<'_> {
        Targeting {
            target_modules: self.target_modules.as_ref(),
            ..Targeting::default()
        }
    }

    fn targets_input(&self) -> bool {
        self.target_modules.is_none()
    }

    fn stores_base(&self) -> bool {
        false
    }

    fn builder(&self, _modules: &Modules<'_>) -> Result<Box<dyn Build + '_>> {
        Ok(Box::new(TokensBuilder::new(self)))
    }
}
