//! The parts of a `LoHa` adapter, each with its own rank and scaling.

use flametune_quant::BaseLinear;

use super::{LoHaConfig, LoHaLinear};
use crate::build::{Build, Modules, Site};
use crate::error::Result;
use crate::slots::LinearMethod;
use crate::targets::Patterns;

/// Builds the parts of one adapter.
pub(super) struct LoHaBuilder<'a> {
    config: &'a LoHaConfig,
    ranks: Patterns<usize>,
    alphas: Patterns<f64>,
}

impl<'a> LoHaBuilder<'a> {
    pub(super) fn new(config: &'a LoHaConfig, modules: &Modules<'_>) -> Result<Self> {
        let adapted = modules.adapted_paths();
        let ranks = Patterns::new("rank_pattern", &config.rank_pattern)?;
        let alphas = Patterns::new("alpha_pattern", &config.alpha_pattern)?;
        ranks.check("rank_pattern", &config.rank_pattern, &adapted)?;
        alphas.check("alpha_pattern", &config.alpha_pattern, &adapted)?;
        Ok(Self {
            config,
            ranks,
            alphas,
        })
    }
}

impl Build for LoHaBuilder<'_> {
    fn method(&self) -> &'static str {
        "LoHa"
    }

    fn linear(&self, site: &Site<'_>, base: &BaseLinear) -> Result<LinearMethod> {
        let r = self.ranks.get(site.path).unwrap_or(self.config.r);
        let alpha = self.alphas.get(site.path).unwrap_or(self.config.alpha);
        let part = LoHaLinear::init(self.config, base, (r, alpha), site.keys());
        Ok(LinearMethod::LoHa(part))
    }
}
