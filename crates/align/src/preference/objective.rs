//! What training on preferences minimises.

use burn::tensor::Tensor;
use flametune_lm::CausalLm;
use flametune_peft::AdapterPass;
use flametune_train::optim::GradientSum;
use flametune_train::{BatchLoss, Extent, MicroStep, Objective};
use serde::{Deserialize, Serialize};

use super::batch::AnswerBatch;
use crate::error::Result;
use crate::host::{constant, count};
use crate::losses::{
    CpoOptions, DpoOptions, KtoKind, KtoOptions, PairLogps, PairLosses, SftTerm, cpo, dpo, kto,
    orpo,
};
use crate::metrics::Metrics;
use crate::pass::Forward;
use crate::sequences::Part;

/// The loss, with its options.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum PreferenceLoss {
    /// DPO and its relatives, IPO among them.
    Dpo(DpoOptions),
    /// KTO, of judged answers.
    Kto(KtoOptions),
    /// CPO and SimPO.
    Cpo(CpoOptions),
    /// ORPO.
    Orpo {
        /// Weight of the odds ratio.
        beta: f64,
    },
}

impl PreferenceLoss {
    /// The method's name in messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Dpo(_) => "DPO",
            Self::Kto(_) => "KTO",
            Self::Cpo(_) => "CPO",
            Self::Orpo { .. } => "ORPO",
        }
    }

    /// Whether log-probabilities under the reference enter the loss.
    pub fn needs_reference(&self) -> bool {
        matches!(self, Self::Dpo(_) | Self::Kto(_))
    }

    /// Whether KTO's baseline enters the loss.
    pub(super) fn needs_baseline(&self) -> bool {
        matches!(self, Self::Kto(options) if options.kind == KtoKind::Kto)
    }

    /// Whether answers are judged one by one rather than compared.
    pub fn is_judged(&self) -> bool {
        matches!(self, Self::Kto(_))
    }

    /// The tokens that the fine-tuning part learns from.
    pub(super) fn sft_part(&self) -> Part {
        match self {
            Self::Orpo { .. } => Part::Whole,
            _ => Part::Answer,
        }
    }

    /// Checks every number.
    ///
    /// # Errors
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) naming the field.
    pub fn validate(&self) -> Result<()> {
        match self {
            Self::Dpo(options) => options.validate(),
            Self::Kto(options) => options.validate(),
            Self::Cpo(options) => options.validate(),
            Self::Orpo { beta } => DpoOptions {
                beta: *beta,
                ..DpoOptions::default()
            }
            .validate(),
        }
    }
}

/// Training on answers that are compared or judged.
///
/// The loss of a step is the mean over its pairs, or over its judged answers.
/// The reference is the same model in another pass, see
/// [`PreferenceFeed`](super::PreferenceFeed); its numbers come with the batch.
#[derive(Debug, Clone)]
pub struct Preference {
    /// The adapters that are trained.
    pub pass: AdapterPass,
    /// The loss.
    pub loss: PreferenceLoss,
    /// Layers are computed again in the backward pass.
    pub recompute: bool,
}

impl Preference {
    /// The sum over the pairs or answers of a batch.
    fn sum(
        &self,
        model: &CausalLm,
        hidden: Tensor<3>,
        batch: &AnswerBatch,
        pass: &AdapterPass,
    ) -> flametune_train::Result<(Tensor<1>, Metrics)> {
        let logps = batch.sequences.logps(model, hidden, pass)?;
        let found = self.losses(&logps, batch);
        Ok((found.losses.sum(), found.parts))
    }

    /// The loss of each pair or answer, from the log-probabilities `[batch·seq]` of all places.
    fn losses(&self, logps: &Tensor<1>, batch: &AnswerBatch) -> PairLosses {
        let sequences = &batch.sequences;
        let device = logps.device();
        let sums = || sequences.sums(logps, Part::Answer);
        let sft = |part: Part| SftTerm {
            nll: sequences
                .sums(logps, part)
                .narrow(0, 0, batch.items())
                .neg(),
            pairs_per_token: batch.pairs_per_token,
        };
        let reference = || constant(batch.reference.clone(), &device);
        match &self.loss {
            PreferenceLoss::Dpo(options) => {
                let policy = PairLogps::halves(sums());
                let reference = PairLogps::halves(reference());
                let sft = options.has_sft().then(|| sft(Part::Answer));
                let lengths = sequences.lengths();
                dpo(&policy, &reference, &lengths, sft.as_ref(), options)
            }
            PreferenceLoss::Kto(options) => {
                kto(&sums(), &reference(), &batch.labels, batch.kl, options)
            }
            PreferenceLoss::Cpo(options) => {
                let policy = match options.kind.averages() {
                    true => sequences.means(logps),
                    false => sums(),
                };
                cpo(&PairLogps::halves(policy), &sft(Part::Answer), options)
            }
            PreferenceLoss::Orpo { beta } => {
                let policy = PairLogps::halves(sequences.means(logps));
                orpo(&policy, &sft(Part::Whole), *beta)
            }
        }
    }
}

impl Objective for Preference {
    type Model = CausalLm;
    type Batch = AnswerBatch;

    fn validate(&self) -> flametune_train::Result<()> {
        Ok(self.loss.validate()?)
    }

    fn extent(&self, batch: &AnswerBatch) -> Extent {
        Extent {
            tokens: batch.sequences.slots(),
            supervised_tokens: batch.sequences.lengths().iter().sum(),
            weight: count(batch.items()),
        }
    }

    fn accumulate(
        &self,
        model: &CausalLm,
        batch: &AnswerBatch,
        at: &MicroStep,
        gradients: &mut GradientSum,
    ) -> flametune_train::Result<BatchLoss> {
        let pass = at.dropout(&self.pass);
        let forward = Forward {
            lm: model,
            tokens: batch.sequences.tokens(),
            pass: &pass,
        };
        forward.accumulate(model, self.recompute, at, gradients, |hidden| {
            self.sum(model, hidden, batch, &pass)
        })
    }

    fn evaluate(
        &self,
        model: &CausalLm,
        batch: &AnswerBatch,
    ) -> flametune_train::Result<BatchLoss> {
        let forward = Forward {
            lm: model,
            tokens: batch.sequences.tokens(),
            pass: &self.pass,
        };
        forward.evaluate(|hidden| self.sum(model, hidden, batch, &self.pass))
    }

    fn settings(&self) -> serde_json::Value {
        serde_json::json!({ "loss": self.loss, "recompute": self.recompute })
    }
}
