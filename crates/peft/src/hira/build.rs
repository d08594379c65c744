//! The parts of a `HiRA` adapter, each with its own rank.

use flametune_quant::BaseLinear;

use super::{HiraConfig, HiraLinear};
use crate::build::{Build, Modules, Site};
use crate::error::Result;
use crate::slots::LinearMethod;
use crate::targets::Patterns;

/// Builds the parts of one adapter.
pub(super) struct HiraBuilder<'a> {
    config: &'a HiraConfig,
    ranks: Patterns<usize>,
}

impl<'a> HiraBuilder<'a> {
    pub(super) fn new(config: &'a HiraConfig, modules: &Modules<'_>) -> Result<Self> {
        let ranks = Patterns::new("rank_pattern", &config.rank_pattern)?;
        let adapted = modules.adapted_paths();
        ranks.check("rank_pattern", &config.rank_pattern, &adapted)?;
        Ok(Self { config, ranks })
    }
}

impl Build for HiraBuilder<'_> {
    fn method(&self) -> &'static str {
        "HiRA"
    }

    fn linear(&self, site: &Site<'_>, base: &BaseLinear) -> Result<LinearMethod> {
        let r = self.ranks.get(site.path).unwrap_or(self.config.r);
        let part = HiraLinear::init(self.config, base, r, site.keys());
        Ok(LinearMethod::Hira(part))
    }
}
