//! The configuration of `AdaLoRA`, under PEFT's names and with PEFT's defaults.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::AdaLoraBuilder;
use crate::bias::BiasMode;
use crate::build::{Build, MethodConfig, Modules};
use crate::check::{self, invalid, unsupported};
use crate::config::CommonConfig;
use crate::error::Result;
use crate::lora::{InitLoraWeights, LoraConfig};
use crate::targets::Targeting;

/// What PEFT adds to the rank that it divides by.
const RANK_EPS: f64 = 1e-5;

/// The configuration of `AdaLoRA`: that of LoRA, and a schedule.
///
/// # Units
/// - `tinit`, `tfinal`, `total_step`, `deltaT`: optimizer steps; `tfinal` counts from the end
///
/// # Source
/// - reference: peft `tuners/adalora/config.py::AdaLoraConfig` 0.21
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AdaLoraConfig {
    /// The fields of LoRA; its `r` is ignored.
    #[serde(flatten)]
    pub lora: LoraConfig,
    /// The mean rank at the end.
    pub target_r: usize,
    /// The rank of every module at the start.
    pub init_r: usize,
    /// Steps with all ranks at the start.
    pub tinit: usize,
    /// Steps with the final ranks at the end.
    pub tfinal: usize,
    /// Steps between two allocations.
    #[serde(rename = "deltaT")]
    pub delta_t: usize,
    /// How slowly the sensitivity of a parameter changes.
    pub beta1: f64,
    /// How slowly the uncertainty of the sensitivity changes.
    pub beta2: f64,
    /// The weight of [`orthogonal_penalty`](super::orthogonal_penalty) in the loss.
    pub orth_reg_weight: f64,
    /// All steps of the training run.
    pub total_step: Option<usize>,
    /// Which singular values of each module are kept, by the name of its `lora_E`.
    pub rank_pattern: Option<BTreeMap<String, Vec<bool>>>,
}

impl Default for AdaLoraConfig {
    fn default() -> Self {
        Self {
            lora: LoraConfig::default(),
            target_r: 8,
            init_r: 12,
            tinit: 0,
            tfinal: 0,
            delta_t: 1,
            beta1: 0.85,
            beta2: 0.85,
            orth_reg_weight: 0.5,
            total_step: None,
            rank_pattern: None,
        }
    }
}

impl AdaLoraConfig {
    /// The same configuration for a run of `steps` steps, unless it names a number itself.
    #[must_use]
    pub fn with_total_step(mut self, steps: usize) -> Self {
        self.total_step.get_or_insert(steps);
        self
    }

    /// The factor before the update of a module with `r` ranks.
    #[expect(clippy::cast_precision_loss, reason = "ranks are small")]
    pub(super) fn scaling(&self, r: usize) -> f64 {
        let alpha = self.lora.lora_alpha;
        let alpha = if alpha > 0.0 { alpha } else { r as f64 };
        alpha / (self.init_r as f64 + RANK_EPS)
    }

    fn check_lora(&self) -> Result<()> {
        let lora = &self.lora;
        if lora.use_dora {
            return Err(unsupported("use_dora", true, "AdaLoRA has no magnitudes"));
        }
        if lora.use_rslora {
            let hint = "AdaLoRA divides by the rank";
            return Err(unsupported("use_rslora", true, hint));
        }
        if lora.lora_bias {
            return Err(unsupported("lora_bias", true, "AdaLoRA has no bias on B"));
        }
        if !lora.alpha_pattern.is_empty() {
            let hint = "all modules of AdaLoRA share lora_alpha";
            return Err(unsupported("alpha_pattern", "a mapping", hint));
        }
        match &lora.init_lora_weights {
            InitLoraWeights::Kaiming | InitLoraWeights::Random => {}
            _ => {
                let hint = "AdaLoRA begins with true or false";
                return Err(unsupported("init_lora_weights", "a name", hint));
            }
        }
        // The rank of LoRA is ignored, whatever it is.
        let ignored = LoraConfig {
            r: 1,
            ..lora.clone()
        };
        ignored.validate()
    }

    fn check_schedule(&self) -> Result<()> {
        let total = match self.total_step {
            Some(total) if total > 0 => total,
            other => {
                let got = other.map_or("null".to_owned(), |steps| steps.to_string());
                return Err(invalid("total_step", format!("must be given, got {got}")));
            }
        };
        if self.tinit >= total.saturating_sub(self.tfinal) {
            let (tinit, tfinal) = (self.tinit, self.tfinal);
            return Err(invalid(
                "total_step",
                format!("must exceed tinit + tfinal, got {total}, {tinit} and {tfinal}"),
            ));
        }
        check::rank("deltaT", self.delta_t)
    }
}

impl MethodConfig for AdaLoraConfig {
    fn common(&self) -> &CommonConfig {
        &self.lora.common
    }

    fn common_mut(&mut self) -> &mut CommonConfig {
        &mut self.lora.common
    }

    fn validate(&self) -> Result<()> {
        self.check_lora()?;
        self.check_schedule()?;
        check::rank("init_r", self.init_r)?;
        check::rank("target_r", self.target_r)?;
        if self.target_r > self.init_r {
            let (target, init) = (self.target_r, self.init_r);
            return Err(invalid(
                "target_r",
                format!("must not exceed init_r, got {target} and {init}"),
            ));
        }
        for (field, beta) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            if !(beta > 0.0 && beta < 1.0) {
                return Err(invalid(field, format!("must be in (0, 1), got {beta}")));
            }
        }
        check::scale("orth_reg_weight", self.orth_reg_weight)
    }

    fn targeting(&self) -> Targeting<'_> {
        MethodConfig::targeting(&self.lora)
    }

    fn bias(&self) -> BiasMode {
        self.lora.bias
    }

    fn stores_base(&self) -> bool {
        self.lora.stores_base()
    }

    fn largest_rank(&self) -> usize {
        match self.rank_pattern {
            // Its lists are as long as the file is.
            Some(_) => 0,
            None => self.init_r,
        }
    }

    fn builder(&self, modules: &Modules<'_>) -> Result<Box<dyn Build + '_>> {
        Ok(Box::new(AdaLoraBuilder::new(self, modules)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets::TargetModules;

    fn config() -> AdaLoraConfig {
        AdaLoraConfig {
            lora: LoraConfig {
                r: 0,
                target_modules: Some(TargetModules::AllLinear),
                ..LoraConfig::default()
            },
            total_step: Some(100),
            ..AdaLoraConfig::default()
        }
    }

    #[test]
    fn schedules_and_options_that_cannot_be_are_refused() {
        config().validate().unwrap();
        let with = |change: &dyn Fn(&mut AdaLoraConfig)| {
            let mut config = config();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert_eq!(
            with(&|c| c.total_step = None),
            "total_step must be given, got null"
        );
        assert_eq!(
            with(&|c| (c.tinit, c.tfinal) = (60, 40)),
            "total_step must exceed tinit + tfinal, got 100, 60 and 40"
        );
        assert_eq!(
            with(&|c| c.target_r = 13),
            "target_r must not exceed init_r, got 13 and 12"
        );
        assert!(with(&|c| c.beta1 = 1.0).starts_with("beta1 must be in (0, 1)"));
        assert!(with(&|c| c.delta_t = 0).starts_with("deltaT"));
        assert!(with(&|c| c.orth_reg_weight = -1.0).starts_with("orth_reg_weight"));
        assert!(with(&|c| c.lora.use_dora = true).starts_with("use_dora"));
        assert!(with(&|c| c.lora.use_rslora = true).starts_with("use_rslora"));
        assert!(with(&|c| c.lora.lora_bias = true).starts_with("lora_bias"));
        assert!(
            with(&|c| c.lora.alpha_pattern = [("x".to_owned(), 1.0)].into())
                .starts_with("alpha_pattern")
        );
        assert!(
            with(&|c| c.lora.init_lora_weights = InitLoraWeights::Pissa).starts_with("init_lora")
        );
        let derived = AdaLoraConfig {
            total_step: None,
            ..config()
        };
        assert_eq!(derived.with_total_step(7).total_step, Some(7));
        assert_eq!(config().with_total_step(7).total_step, Some(100));
    }
}
