//! What a training run is told.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::loss_scaling::LossScaling;
use crate::optim::Rule;
use crate::schedule::Schedule;

/// How long the learning rate rises.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Warmup {
    /// So many optimizer steps.
    Steps(usize),
    /// A part of all steps, rounded up.
    Ratio(f64),
}

impl Warmup {
    /// The steps of a run of `total`.
    pub fn steps(self, total: usize) -> usize {
        match self {
            Self::Steps(steps) => steps,
            #[expect(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a validated part of a step count"
            )]
            Self::Ratio(ratio) => (ratio * total as f64).ceil() as usize,
        }
    }
}

/// The optimization of a run: everything but model, data and objective.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// The peak learning rate.
    pub learning_rate: f64,
    /// How it changes.
    pub schedule: Schedule,
    /// How long it rises.
    pub warmup: Warmup,
    /// Optimizer steps of the run.
    pub max_steps: usize,
    /// The update rule.
    pub rule: Rule,
    /// Decoupled weight decay of matrices; vectors have none.
    pub weight_decay: f64,
    /// The global norm that gradients are clipped to; without it they are left alone.
    pub max_grad_norm: Option<f64>,
    /// Loss scaling, for models that compute in f16.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_scaling: Option<LossScaling>,
    /// Chooses every random number of the run.
    pub seed: u64,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            learning_rate: 2e-4,
            schedule: Schedule::Cosine { min_lr_rate: 0.0 },
            warmup: Warmup::Ratio(0.03),
            max_steps: 100,
            rule: Rule::default(),
            weight_decay: 0.0,
            max_grad_norm: Some(1.0),
            loss_scaling: None,
            seed: 0,
        }
    }
}

impl TrainConfig {
    /// Checks every number.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] naming the field.
    pub fn validate(&self) -> Result<()> {
        let invalid = |field, reason: String| Err(Error::InvalidConfig { field, reason });
        let not_negative = [
            ("learning_rate", self.learning_rate),
            ("weight_decay", self.weight_decay),
        ];
        for (field, value) in not_negative {
            if !(value.is_finite() && value >= 0.0) {
                return invalid(
                    field,
                    format!("must be finite and not negative, got {value}"),
                );
            }
        }
        if let Some(norm) = self.max_grad_norm
            && !(norm.is_finite() && norm > 0.0)
        {
            return invalid(
                "max_grad_norm",
                format!("must be finite and above 0, got {norm}"),
            );
        }
        if let Warmup::Ratio(ratio) = self.warmup
            && !(0.0..=1.0).contains(&ratio)
        {
            return invalid(
                "warmup",
                format!("must be between 0 and 1, got a ratio of {ratio}"),
            );
        }
        if self.max_steps == 0 {
            return invalid("max_steps", "must be at least 1, got 0".to_owned());
        }
        if let Some(scaling) = &self.loss_scaling {
            scaling.validate()?;
        }
        self.rule.validate()?;
        self.schedule.validate()
    }

    /// The learning rate of optimizer step `step`, from 0.
    pub fn learning_rate_at(&self, step: usize) -> f64 {
        let warmup = self.warmup.steps(self.max_steps);
        self.learning_rate * self.schedule.factor(step, warmup, self.max_steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(config: TrainConfig) -> String {
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn numbers_are_checked_by_name() {
        let default = TrainConfig::default();
        default.validate().unwrap();
        assert_eq!(
            refused(TrainConfig {
                learning_rate: f64::NAN,
                ..default
            }),
            "learning_rate must be finite and not negative, got NaN"
        );
        assert_eq!(
            refused(TrainConfig {
                max_grad_norm: Some(0.0),
                ..default
            }),
            "max_grad_norm must be finite and above 0, got 0"
        );
        assert_eq!(
            refused(TrainConfig {
                warmup: Warmup::Ratio(1.5),
                ..default
            }),
            "warmup must be between 0 and 1, got a ratio of 1.5"
        );
        assert_eq!(
            refused(TrainConfig {
                max_steps: 0,
                ..default
            }),
            "max_steps must be at least 1, got 0"
        );
    }

    #[test]
    fn a_warm_up_ratio_rounds_up() {
        assert_eq!(Warmup::Ratio(0.03).steps(100), 3);
        assert_eq!(Warmup::Ratio(0.03).steps(101), 4);
        assert_eq!(Warmup::Steps(7).steps(3), 7);
    }
}
