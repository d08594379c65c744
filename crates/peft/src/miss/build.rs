//! The parts of a `MiSS` adapter.

use flametune_quant::BaseLinear;

use super::{InitMissWeights, MissConfig, MissLinear};
use crate::build::{Build, Site};
use crate::check::invalid;
use crate::error::Result;
use crate::slots::LinearMethod;

/// Builds the parts of one adapter.
pub(super) struct MissBuilder<'a> {
    config: &'a MissConfig,
}

impl<'a> MissBuilder<'a> {
    pub(super) fn new(config: &'a MissConfig) -> Self {
        Self { config }
    }

    fn check(&self, path: &str, d_in: usize, d_out: usize) -> Result<()> {
        let MissConfig { r, mini_r, .. } = *self.config;
        if r > d_in {
            let reason = format!("must not exceed the {d_in} inputs of `{path}`, got {r}");
            return Err(invalid("r", reason));
        }
        match self.config.init_weights {
            InitMissWeights::Bat if !d_in.is_multiple_of(r) || !d_out.is_multiple_of(r) => {
                let reason = format!(
                    "must divide the {d_in} inputs and {d_out} outputs of `{path}`, got {r}"
                );
                Err(invalid("r", reason))
            }
            InitMissWeights::Mini if !d_out.is_multiple_of(mini_r) => {
                let reason = format!("must divide the {d_out} outputs of `{path}`, got {mini_r}");
                Err(invalid("mini_r", reason))
            }
            _ => Ok(()),
        }
    }
}

impl Build for MissBuilder<'_> {
    fn method(&self) -> &'static str {
        "MiSS"
    }

    fn linear(&self, site: &Site<'_>, base: &BaseLinear) -> Result<LinearMethod> {
        self.check(site.path, base.d_in(), base.d_out())?;
        let part = MissLinear::init(self.config, base, site.keys());
        Ok(LinearMethod::Miss(part))
    }
}
