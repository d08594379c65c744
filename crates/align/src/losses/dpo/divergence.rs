//! f-DPO: divergences other than the reverse KL.

use burn::tensor::{Tensor, activation};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::losses::check::refused;
use crate::losses::pair::PairLogps;

/// `α` nearer to one than this is the reverse KL itself.
const LIMIT: f64 = 1e-6;

/// Exponents are cut here, so that powers stay representable in f32.
const LARGEST: f64 = 80.0;

/// The divergence of the policy from the reference that the preference optimum bounds.
///
/// With `t = π/π_ref`, an answer's score is `f′(t)`.
///
/// # Source
/// - Wang et al. 2023, Beyond Reverse KL: Generalizing DPO with Diverse Divergence Constraints,
///   arXiv:2309.16240, table 1
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum FDivergence {
    /// `ln t`: DPO.
    #[default]
    ReverseKl,
    /// `1 − 1/t`.
    ForwardKl,
    /// `ln(2t / (1 + t))`.
    JsDivergence,
    /// `(t^(α−1) − 1) / (α − 1)`.
    AlphaDivergence {
        /// `α`; 1 is the reverse KL.
        alpha: f64,
    },
}

impl FDivergence {
    /// The scores of answers with these log-ratios.
    #[must_use]
    pub fn scores(self, ratios: &PairLogps) -> PairLogps {
        PairLogps {
            chosen: self.score(ratios.chosen.clone()),
            rejected: self.score(ratios.rejected.clone()),
        }
    }

    fn score(self, ratio: Tensor<1>) -> Tensor<1> {
        match self {
            Self::ReverseKl => ratio,
            Self::ForwardKl => ratio.neg().exp().neg() + 1.0,
            Self::JsDivergence => activation::log_sigmoid(ratio) + std::f64::consts::LN_2,
            Self::AlphaDivergence { alpha } if (alpha - 1.0).abs() < LIMIT => ratio,
            Self::AlphaDivergence { alpha } => {
                let power = (ratio * (alpha - 1.0)).clamp_max(LARGEST).exp();
                (power - 1.0) / (alpha - 1.0)
            }
        }
    }

    pub(super) fn validate(self) -> Result<()> {
        match self {
            Self::AlphaDivergence { alpha } if !alpha.is_finite() => {
                refused("alpha", format!("must be finite, got {alpha}"))
            }
            _ => Ok(()),
        }
    }
}
