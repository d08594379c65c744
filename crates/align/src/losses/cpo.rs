//! Contrastive preference optimization and SimPO: pairs without a reference.

use burn::tensor::{Tensor, activation};
use serde::{Deserialize, Serialize};

use super::check::{below_half, not_negative, positive, refused};
use super::dpo::{hinge, sigmoid};
use super::pair::{PairLogps, PairLosses, SftTerm, reward_parts};
use crate::error::Result;

/// The loss on the margin, by TRL's name (`loss_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CpoKind {
    /// CPO.
    #[default]
    Sigmoid,
    /// A hinge.
    Hinge,
    /// A square, of means over tokens.
    Ipo,
    /// SimPO: a target margin, of means over tokens.
    Simpo,
}

impl CpoKind {
    /// Whether log-probabilities are means over tokens rather than sums.
    pub fn averages(self) -> bool {
        matches!(self, Self::Ipo | Self::Simpo)
    }
}

/// The options of [`cpo`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CpoOptions {
    /// The scale of rewards.
    pub beta: f64,
    /// The loss on the margin.
    pub kind: CpoKind,
    /// The probability that a label is wrong.
    pub label_smoothing: f64,
    /// SimPO's target margin `γ`.
    pub simpo_gamma: f64,
    /// Weight of supervised fine-tuning on the chosen answers; 0 for SimPO as its paper has it.
    pub cpo_alpha: f64,
    /// AlphaPO's shape of rewards; 0 is the log-probability itself.
    pub alpha: f64,
}

impl Default for CpoOptions {
    fn default() -> Self {
        Self {
            beta: 0.1,
            kind: CpoKind::Sigmoid,
            label_smoothing: 0.0,
            simpo_gamma: 0.5,
            cpo_alpha: 1.0,
            alpha: 0.0,
        }
    }
}

impl CpoOptions {
    /// SimPO with its paper's options for a scale and a target margin.
    #[must_use]
    pub fn simpo(beta: f64, gamma: f64) -> Self {
        Self {
            beta,
            kind: CpoKind::Simpo,
            simpo_gamma: gamma,
            cpo_alpha: 0.0,
            ..Self::default()
        }
    }

    /// Checks every number.
    ///
    /// # Errors
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) naming the field.
    pub fn validate(&self) -> Result<()> {
        positive("beta", self.beta)?;
        below_half("label_smoothing", self.label_smoothing)?;
        not_negative("cpo_alpha", self.cpo_alpha)?;
        not_negative("simpo_gamma", self.simpo_gamma)?;
        match self.alpha.is_finite() {
            true => Ok(()),
            false => refused("alpha", format!("must be finite, got {}", self.alpha)),
        }
    }
}

/// The loss of each pair: one of the margin of rewards, plus `cpo_alpha` times fine-tuning.
///
/// With `ℓ` the log-probability of an answer (its mean over tokens where
/// [`CpoKind::averages`]), the reward is `ℓ`, or AlphaPO's `(1 − e^(−α·ℓ)) / α`; with `m` the
/// margin of rewards the loss is `−ln σ(β·m)`, SimPO's `−ln σ(β·m − γ)`, a hinge, or
/// `(m − 1/(2β))²`.
///
/// # Shapes
/// - `policy`: `[pairs]`; `sft`: of the chosen answers' tokens
///
/// # Logged parts
/// `rewards/chosen`, `rewards/rejected`, `rewards/accuracies`, `rewards/margins`, `logps/chosen`,
/// `logps/rejected`.
///
/// # Source
/// - Xu et al. 2024, Contrastive Preference Optimization, arXiv:2401.08417
/// - Meng et al. 2024, SimPO, arXiv:2405.14734, eq. (6)
/// - Gupta et al. 2025, AlphaPO, arXiv:2501.03884
/// - reference: TRL 1.16 `cpo_trainer.py::cpo_loss`; golden `fixtures/align/cpo_orpo.safetensors`
pub fn cpo(policy: &PairLogps, sft: &SftTerm, options: &CpoOptions) -> PairLosses {
    let reward = |logps: &Tensor<1>| match options.alpha {
        0.0 => logps.clone(),
        alpha => ((logps.clone() * -alpha).exp().neg() + 1.0) / alpha,
    };
    let rewards = PairLogps {
        chosen: reward(&policy.chosen),
        rejected: reward(&policy.rejected),
    };
    let (beta, margin) = (options.beta, rewards.margin());
    let losses = match options.kind {
        CpoKind::Sigmoid => sigmoid(margin, beta, options.label_smoothing),
        CpoKind::Hinge => hinge(margin, beta),
        CpoKind::Ipo => {
            let error = margin - 1.0 / (2.0 * beta);
            error.clone() * error
        }
        CpoKind::Simpo => simpo(margin, options),
    };
    let losses = match options.cpo_alpha {
        0.0 => losses,
        alpha => losses + sft.losses() * alpha,
    };
    let rewards = PairLogps {
        chosen: rewards.chosen * beta,
        rejected: rewards.rejected * beta,
    };
    PairLosses {
        losses,
        parts: reward_parts(&rewards, policy),
    }
}

/// `−(1 − ε)·ln σ(β·m − γ) − ε·ln σ(γ − β·m)`.
fn simpo(margin: Tensor<1>, options: &CpoOptions) -> Tensor<1> {
    let logits = margin * options.beta - options.simpo_gamma;
    let loss = activation::log_sigmoid(logits.clone()).neg();
    let smoothing = options.label_smoothing;
    match smoothing {
        0.0 => loss,
        _ => loss * (1.0 - smoothing) - activation::log_sigmoid(logits.neg()) * smoothing,
    }
}
