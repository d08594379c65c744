//! Kahneman-Tversky optimization: answers that are wanted or not, one at a time.

use burn::tensor::{Tensor, activation};
use serde::{Deserialize, Serialize};

use super::check::{not_negative, positive};
use crate::error::Result;
use crate::host::{constant, f32_of, numbers};
use crate::losses::pair::PairLosses;
use crate::metrics::Metrics;

/// A loss of judged answers, by TRL's name (`loss_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KtoKind {
    /// KTO, measured from the KL to the reference.
    #[default]
    Kto,
    /// APO-zero of single answers: measured from zero, so no baseline is computed.
    ApoZeroUnpaired,
}

/// The options of [`kto`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KtoOptions {
    /// How strongly the policy is held to the reference.
    pub beta: f64,
    /// The loss.
    pub kind: KtoKind,
    /// Weight of wanted answers.
    pub desirable_weight: f64,
    /// Weight of the others.
    pub undesirable_weight: f64,
}

impl Default for KtoOptions {
    fn default() -> Self {
        Self {
            beta: 0.1,
            kind: KtoKind::Kto,
            desirable_weight: 1.0,
            undesirable_weight: 1.0,
        }
    }
}

impl KtoOptions {
    /// Checks every number.
    ///
    /// # Errors
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) naming the field.
    pub fn validate(&self) -> Result<()> {
        positive("beta", self.beta)?;
        not_negative("desirable_weight", self.desirable_weight)?;
        not_negative("undesirable_weight", self.undesirable_weight)
    }
}

/// KTO's point of reference: `max(0, mean(policy − reference))` over answers to *other* prompts, an
/// estimate of the KL divergence without a gradient.
///
/// # Source
/// - Ethayarajh et al. 2024, KTO, arXiv:2402.01306, §4.1
pub fn kl_baseline(policy: &[f32], reference: &[f32]) -> f64 {
    let gaps = policy.iter().zip(reference);
    let sum: f64 = gaps.map(|(p, r)| f64::from(*p) - f64::from(*r)).sum();
    (sum / crate::host::count(policy.len().max(1))).max(0.0)
}

/// The loss of each answer: `w·(1 − σ(β·(x − z)))` for wanted ones, `w·(1 − σ(β·(z − x)))` for others,
/// with `x` the log-ratio to the reference and `z` the baseline.
///
/// # Shapes
/// - `policy`, `reference`: `[answers]`, sums over tokens; `labels`: one an answer
///
/// # Logged parts
/// `kl`, and `rewards/chosen`, `rewards/rejected`, `logps/chosen`, `logps/rejected` of wanted and
/// other answers.
///
/// # Panics
/// When there is another number of labels than of answers.
///
/// # Source
/// - Ethayarajh et al. 2024, KTO, arXiv:2402.01306, eq. (7)
/// - D'Oosterlinck et al. 2024, APO, arXiv:2408.06266, for the variant without baseline
/// - reference: TRL 1.16 `kto_trainer.py::_compute_loss`; golden `fixtures/align/kto.safetensors`
pub fn kto(
    policy: &Tensor<1>,
    reference: &Tensor<1>,
    labels: &[bool],
    kl: f64,
    options: &KtoOptions,
) -> PairLosses {
    assert_eq!(policy.dims(), [labels.len()], "labels of answers");
    let kl = match options.kind {
        KtoKind::Kto => kl,
        KtoKind::ApoZeroUnpaired => 0.0,
    };
    let device = policy.device();
    let of = |wanted: f64, other: f64| {
        let value = |label: &bool| f32_of(if *label { wanted } else { other });
        constant(labels.iter().map(value).collect(), &device)
    };
    let ratios = policy.clone() - reference.clone();
    let gain = (ratios.clone() - kl) * of(options.beta, -options.beta);
    let weights = of(options.desirable_weight, options.undesirable_weight);
    let losses = (activation::sigmoid(gain).neg() + 1.0) * weights;
    let mut parts = Metrics::default();
    parts.add("kl", kl, 1.0);
    let (ratios, logps) = (numbers(&ratios), numbers(policy));
    for (wanted, name) in [(true, "chosen"), (false, "rejected")] {
        let of_class = |values: &[f32], factor: f64| -> Vec<f64> {
            let of_class = values.iter().zip(labels).filter(|(_, l)| **l == wanted);
            of_class.map(|(x, _)| factor * f64::from(*x)).collect()
        };
        parts.extend(format!("rewards/{name}"), of_class(&ratios, options.beta));
        parts.extend(format!("logps/{name}"), of_class(&logps, 1.0));
    }
    PairLosses { losses, parts }
}
