//! The configuration of (IA)³, under PEFT's names and with PEFT's defaults.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Ia3Builder;
use crate::build::{Build, MethodConfig, Modules, common_field};
use crate::check::{self, invalid};
use crate::config::CommonConfig;
use crate::error::Result;
use crate::targets::{TargetModules, Targeting};

/// The configuration of (IA)³.
///
/// # Source
/// - reference: peft `tuners/ia3/config.py::IA3Config` 0.21
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ia3Config {
    /// The fields that every method has.
    #[serde(flatten)]
    pub common: CommonConfig,
    /// The modules to adapt.
    pub target_modules: Option<TargetModules>,
    /// Modules that are left out even if `target_modules` matches them.
    pub exclude_modules: Option<TargetModules>,
    /// The adapted modules whose inputs are scaled in place of their outputs.
    ///
    /// Names match the ends of modules' names, with or without a dot before them.
    pub feedforward_modules: Option<TargetModules>,
    /// Whether the base is stored as `[d_in, d_out]`; kept as it is, because the layers know.
    pub fan_in_fan_out: bool,
    /// Modules of which a full copy is trained and saved.
    pub modules_to_save: Option<Vec<String>>,
    /// Begins with gains of one; normal numbers otherwise.
    pub init_ia3_weights: bool,
    /// Everything else in the file, kept as it is.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Default for Ia3Config {
    fn default() -> Self {
        Self {
            common: CommonConfig::default(),
            target_modules: None,
            exclude_modules: None,
            feedforward_modules: None,
            fan_in_fan_out: false,
            modules_to_save: None,
            init_ia3_weights: true,
            extra: Map::new(),
        }
    }
}

impl MethodConfig for Ia3Config {
    common_field!();

    fn validate(&self) -> Result<()> {
        const FIELD: &str = "feedforward_modules";
        check::given(self.target_modules.as_ref())?;
        match (&self.feedforward_modules, &self.target_modules) {
            (None, _) => Err(invalid(FIELD, "must be given, if only as []".to_owned())),
            (Some(TargetModules::AllLinear), _) => Err(invalid(
                FIELD,
                "must be names or a pattern, got all-linear".to_owned(),
            )),
            (Some(TargetModules::List(inner)), Some(TargetModules::List(targets))) => {
                match inner.iter().find(|name| !targets.contains(name)) {
                    Some(name) => Err(invalid(
                        FIELD,
                        format!("must be a subset of target_modules, which lacks `{name}`"),
                    )),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn targeting(&self) -> Targeting<'_> {
        Targeting {
            target_modules: self.target_modules.as_ref(),
            exclude_modules: self.exclude_modules.as_ref(),
            modules_to_save: self.modules_to_save.as_deref().unwrap_or_default(),
            optional_heads: self.common.optional_heads(),
            ..Targeting::default()
        }
    }

    fn builder(&self, _modules: &Modules<'_>) -> Result<Box<dyn Build + '_>> {
        Ok(Box::new(Ia3Builder::new(self)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn feedforward_modules_must_be_a_part_of_the_targets() {
        let config = |inner: Option<TargetModules>| Ia3Config {
            target_modules: Some(TargetModules::list(["k_proj", "down_proj"])),
            feedforward_modules: inner,
            ..Ia3Config::default()
        };
        config(Some(TargetModules::list(["down_proj"])))
            .validate()
            .unwrap();
        config(Some(TargetModules::List(Vec::new())))
            .validate()
            .unwrap();
        let message = |inner| config(inner).validate().unwrap_err().to_string();
        assert_eq!(
            message(Some(TargetModules::list(["up_proj"]))),
            "feedforward_modules must be a subset of target_modules, which lacks `up_proj`"
        );
        assert!(message(None).starts_with("feedforward_modules must be given"));
        assert!(message(Some(TargetModules::AllLinear)).contains("all-linear"));
    }
}
