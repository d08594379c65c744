//! Estimates of the KL divergence from single samples, and control of its weight.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// An estimator of `KL(π ‖ π_ref)` from a token that `π` sampled, with `r = ln π_ref − ln π`.
///
/// # Source
/// - Schulman 2020, "Approximating KL Divergence", <http://joschu.net/blog/kl-approx.html>
/// - reference: TRL 0.24 `ppo_trainer.py`, `kl_estimator`; golden `fixtures/align/ppo.safetensors`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlEstimator {
    /// `−r`: unbiased, of either sign.
    #[default]
    K1,
    /// `r²/2`: biased, never negative.
    K2,
    /// `eʳ − r − 1`: unbiased, never negative.
    K3,
}

impl KlEstimator {
    /// The estimate from two log-probabilities of a token.
    pub fn of(self, logp: f64, reference: f64) -> f64 {
        let r = reference - logp;
        match self {
            Self::K1 => -r,
            Self::K2 => 0.5 * r * r,
            Self::K3 => r.exp_m1() - r,
        }
    }

    /// The estimates from tensors of log-probabilities.
    #[must_use]
    pub fn of_tensors(self, logps: Tensor<1>, reference: Tensor<1>) -> Tensor<1> {
        let r = reference - logps;
        match self {
            Self::K1 => r.neg(),
            Self::K2 => r.clone() * r * 0.5,
            Self::K3 => r.clone().exp() - r - 1.0,
        }
    }
}

/// How the weight of the KL divergence is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type", deny_unknown_fields)]
pub enum KlControl {
    /// It stays.
    Fixed,
    /// It rises while the divergence is above a target, and falls while it is below.
    Adaptive {
        /// The wanted divergence of a completion, in nats.
        target: f64,
        /// Completions over which the weight may change by a fifth.
        horizon: f64,
    },
}

impl KlControl {
    /// The weight after `completions` whose mean divergence was `kl`:
    /// `β·(1 + clip(kl/target − 1, −0.2, 0.2)·completions/horizon)`.
    ///
    /// # Source
    /// - Ziegler et al. 2019, Fine-Tuning Language Models from Human Preferences, arXiv:1909.08593,
    ///   §2.2
    #[must_use]
    pub fn next(self, beta: f64, kl: f64, completions: f64) -> f64 {
        match self {
            Self::Fixed => beta,
            Self::Adaptive { target, horizon } => {
                let error = (kl / target - 1.0).clamp(-0.2, 0.2);
                beta * (1.0 + error * completions / horizon)
            }
        }
    }

    /// Checks every number.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] naming the field.
    pub fn validate(self) -> Result<()> {
        let Self::Adaptive { target, horizon } = self else {
            return Ok(());
        };
        for (field, value) in [("target", target), ("horizon", horizon)] {
            if !(value.is_finite() && value > 0.0) {
                let reason = format!("must be finite and above 0, got {value}");
                return Err(Error::InvalidOption { field, reason });
            }
        }
        Ok(())
    }
}
