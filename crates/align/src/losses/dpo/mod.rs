//! Direct preference optimization and its relatives: losses of log-ratios to a reference.

mod aot;
mod apo;
mod bco;
mod discopop;
mod divergence;
mod exo;
mod hinge;
mod ipo;
mod nca;
mod options;
mod robust;
mod sigmoid;
mod sppo;

use burn::tensor::Tensor;

pub use aot::{aot, aot_unpaired};
pub use apo::{apo_down, apo_zero};
pub use bco::bco_pair;
pub use discopop::discopop;
pub use divergence::FDivergence;
pub use exo::exo_pair;
pub use hinge::hinge;
pub use ipo::ipo;
pub use nca::nca_pair;
pub use options::{DpoKind, DpoOptions, DpoTerm};
pub use robust::robust;
pub use sigmoid::{sigmoid, sigmoid_norm};
pub use sppo::sppo_hard;

use super::pair::{PairLogps, PairLosses, SftTerm, reward_parts};
use crate::host::constant;

/// A weighted sum of losses of the DPO family, for each pair.
///
/// With `x` the policy's log-probability of an answer minus the reference's, and `s = f′(eˣ)` of the
/// divergence (`x` itself for the reverse KL), the losses are functions of `s_chosen − s_rejected`
/// or of the two `x`.
///
/// # Shapes
/// - `policy`, `reference`: `[pairs]`, sums over tokens; `lengths`: tokens of each answer, the chosen
///   ones first, `2·pairs`
/// - `sft`: needed by [`DpoKind::Sft`] alone
///
/// # Logged parts
/// `rewards/chosen`, `rewards/rejected` (`beta·x`), `rewards/accuracies`, `rewards/margins`,
/// `logps/chosen`, `logps/rejected`.
///
/// # Panics
/// When the numbers of pairs differ, or `sft` is missing where it is asked for.
///
/// # Source
/// - Rafailov et al. 2023, DPO, arXiv:2305.18290, eq. (7)
/// - reference: TRL 1.16 `dpo_trainer.py::_compute_loss`; golden `fixtures/align/dpo.safetensors`
/// - differs: the sigmoid loss takes label smoothing (cDPO), which TRL's ignores
///
/// # Examples
/// ```
/// use burn::tensor::{Device, Tensor};
/// use flametune_align::losses::{DpoOptions, PairLogps, dpo};
///
/// let logps = || PairLogps::halves(Tensor::from_floats([-3.0, -5.0, -4.0, -2.0], &Device::flex()));
/// // Policy and reference are the same: every pair costs ln 2.
/// let output = dpo(&logps(), &logps(), &[3, 3, 3, 3], None, &DpoOptions::default());
/// let loss = output.losses.mean().into_scalar::<f32>();
/// assert!((loss - 2f32.ln()).abs() < 1e-6);
/// ```
pub fn dpo(
    policy: &PairLogps,
    reference: &PairLogps,
    lengths: &[usize],
    sft: Option<&SftTerm>,
    options: &DpoOptions,
) -> PairLosses {
    let ratios = policy.minus(reference);
    let pairs = ratios.pairs();
    assert_eq!(lengths.len(), 2 * pairs, "lengths of {pairs} pairs");
    let scores = options.divergence.scores(&ratios);
    let term = |kind: DpoKind| -> Tensor<1> {
        let (beta, smoothing) = (options.beta, options.label_smoothing);
        match kind {
            DpoKind::Sigmoid => sigmoid(scores.margin(), beta, smoothing),
            DpoKind::SigmoidNorm => sigmoid_norm(per_token(&scores, lengths).margin(), beta),
            DpoKind::Hinge => hinge(scores.margin(), beta),
            DpoKind::Ipo => ipo(per_token(&scores, lengths).margin(), beta),
            DpoKind::ExoPair => exo_pair(scores.margin(), beta, smoothing),
            DpoKind::NcaPair => nca_pair(&ratios, beta),
            DpoKind::Robust => robust(scores.margin(), beta, smoothing),
            DpoKind::BcoPair => bco_pair(&ratios, beta),
            DpoKind::SppoHard => sppo_hard(&ratios, beta),
            DpoKind::Aot => aot(policy, reference, beta, smoothing),
            DpoKind::AotUnpaired => aot_unpaired(&ratios, beta, smoothing),
            DpoKind::ApoZero => apo_zero(&ratios, beta),
            DpoKind::ApoDown => apo_down(&ratios, beta),
            DpoKind::Discopop => discopop(scores.margin(), beta, options.discopop_tau),
            DpoKind::Sft => match sft {
                Some(sft) => sft.losses(),
                None => unreachable!("the caller asked for no term of fine-tuning"),
            },
        }
    };
    let mut terms = options.losses.iter();
    let zeros = || ratios.chosen.zeros_like();
    let first = terms.next().map(|t| term(t.kind) * t.weight);
    let losses = terms.fold(first.unwrap_or_else(zeros), |sum, t| {
        sum + term(t.kind) * t.weight
    });
    let rewards = PairLogps {
        chosen: ratios.chosen * options.beta,
        rejected: ratios.rejected * options.beta,
    };
    PairLosses {
        losses,
        parts: reward_parts(&rewards, policy),
    }
}

/// Scores divided by the tokens of their answers.
fn per_token(scores: &PairLogps, lengths: &[usize]) -> PairLogps {
    let pairs = scores.pairs();
    let device = scores.chosen.device();
    #[expect(clippy::cast_precision_loss, reason = "lengths in tokens")]
    let inverse = |lengths: &[usize]| {
        let values = lengths.iter().map(|&len| 1.0 / len.max(1) as f32);
        constant(values.collect(), &device)
    };
    PairLogps {
        chosen: scores.chosen.clone() * inverse(&lengths[..pairs]),
        rejected: scores.rejected.clone() * inverse(&lengths[pairs..]),
    }
}
