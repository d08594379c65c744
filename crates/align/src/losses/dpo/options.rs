//! Which losses of the DPO family, and how they are weighed.

use serde::{Deserialize, Serialize};

use super::divergence::FDivergence;
use crate::error::Result;
use crate::losses::check::{below_half, not_negative, positive, refused};

/// A loss of the DPO family, by TRL's name (`loss_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DpoKind {
    /// DPO; with label smoothing cDPO.
    Sigmoid,
    /// DPO of scores per token.
    SigmoidNorm,
    /// A hinge, as SLiC has it.
    Hinge,
    /// IPO: a square of scores per token.
    Ipo,
    /// EXO; needs label smoothing.
    ExoPair,
    /// NCA.
    NcaPair,
    /// Robust DPO: label smoothing that keeps the loss unbiased.
    Robust,
    /// BCO.
    BcoPair,
    /// SPPO with a certain winner.
    SppoHard,
    /// Alignment via optimal transport, pairs sorted.
    Aot,
    /// The same, chosen and rejected answers sorted apart.
    AotUnpaired,
    /// APO-zero.
    ApoZero,
    /// APO-down.
    ApoDown,
    /// DiscoPOP.
    Discopop,
    /// Supervised fine-tuning on the chosen answers; as a second term, RPO.
    Sft,
}

/// A loss and its weight.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DpoTerm {
    /// The loss.
    pub kind: DpoKind,
    /// What it is multiplied with.
    #[serde(default = "one")]
    pub weight: f64,
}

fn one() -> f64 {
    1.0
}

/// The options of [`dpo`](super::dpo).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DpoOptions {
    /// How strongly the policy is held to the reference.
    pub beta: f64,
    /// What is summed.
    pub losses: Vec<DpoTerm>,
    /// The probability that a label is wrong.
    pub label_smoothing: f64,
    /// Which divergence from the reference is bounded.
    pub divergence: FDivergence,
    /// DiscoPOP's temperature.
    pub discopop_tau: f64,
}

impl Default for DpoOptions {
    fn default() -> Self {
        Self {
            beta: 0.1,
            losses: vec![DpoTerm {
                kind: DpoKind::Sigmoid,
                weight: 1.0,
            }],
            label_smoothing: 0.0,
            divergence: FDivergence::ReverseKl,
            discopop_tau: 0.05,
        }
    }
}

impl DpoOptions {
    /// One loss with its usual options.
    #[must_use]
    pub fn of(kind: DpoKind, beta: f64) -> Self {
        Self {
            beta,
            losses: vec![DpoTerm { kind, weight: 1.0 }],
            ..Self::default()
        }
    }

    /// Whether a term needs the likelihood of the chosen answers' tokens.
    pub fn has_sft(&self) -> bool {
        self.losses.iter().any(|term| term.kind == DpoKind::Sft)
    }

    /// Checks every number.
    ///
    /// # Errors
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) naming the field.
    pub fn validate(&self) -> Result<()> {
        positive("beta", self.beta)?;
        positive("discopop_tau", self.discopop_tau)?;
        below_half("label_smoothing", self.label_smoothing)?;
        self.divergence.validate()?;
        if self.losses.is_empty() {
            return refused("losses", "must name at least one loss, got none".to_owned());
        }
        for term in &self.losses {
            not_negative("weight", term.weight)?;
            if term.kind == DpoKind::ExoPair && self.label_smoothing == 0.0 {
                let reason = "must be above 0 for exo_pair, whose target it is, got 0";
                return refused("label_smoothing", reason.to_owned());
            }
        }
        Ok(())
    }
}
