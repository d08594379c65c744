//! The parts of an (IA)³ adapter.

use flametune_quant::BaseLinear;
use regex::Regex;

use super::{Ia3Config, Ia3Linear};
use crate::build::{Build, Site};
use crate::error::Result;
use crate::slots::LinearMethod;
use crate::targets::{TargetModules, compile};

/// Builds the parts of one adapter.
pub(super) struct Ia3Builder<'a> {
    config: &'a Ia3Config,
    pattern: Option<Regex>,
}

impl<'a> Ia3Builder<'a> {
    pub(super) fn new(config: &'a Ia3Config) -> Result<Self> {
        let pattern = match &config.feedforward_modules {
            Some(TargetModules::Regex(pattern)) => Some(compile(
                "feedforward_modules",
                pattern,
                &format!("^(?:{pattern})$"),
            )?),
            _ => None,
        };
        Ok(Self { config, pattern })
    }

    fn is_feedforward(&self, path: &str) -> bool {
        match (&self.pattern, &self.config.feedforward_modules) {
            (Some(pattern), _) => pattern.is_match(path),
            (None, Some(TargetModules::List(names))) => {
                names.iter().any(|name| path.ends_with(name))
            }
            _ => false,
        }
    }
}

impl Build for Ia3Builder<'_> {
    fn method(&self) -> &'static str {
        "(IA)³"
    }

    fn linear(&self, site: &Site<'_>, base: &BaseLinear) -> Result<LinearMethod> {
        let is_feedforward = self.is_feedforward(site.path);
        let ones = self.config.init_ia3_weights;
        let part = Ia3Linear::init(base, is_feedforward, ones, site.keys());
        Ok(LinearMethod::Ia3(part))
    }
}
