//! What a run minimises.

mod backprop;
mod base_kl;
mod batch_loss;
mod micro_step;
mod sft;

use burn::module::Module;

use crate::error::Result;
use crate::optim::GradientSum;

pub use backprop::{Backprop, Noise};
pub use base_kl::BaseKl;
pub use batch_loss::BatchLoss;
pub use micro_step::MicroStep;
pub use sft::{Sft, SftOptions, next_token_labels, token_batch};

/// How much is in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Extent {
    /// Tokens that go through the model, padding included.
    pub tokens: usize,
    /// Tokens that are learned from.
    pub supervised_tokens: usize,
    /// What the loss is the mean of: tokens, sequences, pairs.
    pub weight: f64,
}

/// A loss, and its gradients.
///
/// The loss of an optimizer step is the sum over its micro-batches divided by the sum of their
/// [weights](Extent::weight), so an objective computes **sums** and never divides by what is in a
/// batch.
/// Then a step is the same however it is cut into micro-batches.
///
/// The model is any Burn module: every part of it that requires gradients is trained, saved and
/// resumed, such as a reward or value head beside the language model.
///
/// # Examples
/// Pairs of answers, of which the first is preferred (DPO), with the model's own base as the
/// reference:
/// ```
/// use burn::module::Module;
/// use burn::tensor::{Tensor, activation};
/// use flametune_kernels::LogitOptions;
/// use flametune_lm::{AdapterPass, CausalLm, TokenBatch};
/// use flametune_train::optim::GradientSum;
/// use flametune_train::{Backprop, BatchLoss, Extent, MicroStep, Objective, Result};
///
/// /// Preferred answers, and as many others.
/// struct Pairs {
///     tokens: TokenBatch,
///     labels: Vec<i64>,
/// }
///
/// struct Dpo {
///     pass: AdapterPass,
///     beta: f64,
/// }
///
/// impl Dpo {
///     /// `Σ −ln σ(β·((πᶜ − ρᶜ) − (πʳ − ρʳ)))`, from log-probabilities of whole answers.
///     fn loss(&self, policy: Tensor<2>, reference: Tensor<2>) -> Tensor<1> {
///         let ratios = (policy - reference).sum_dim(1).squeeze_dim::<1>(1);
///         let pairs = ratios.dims()[0] / 2;
///         let margin = ratios.clone().narrow(0, 0, pairs) - ratios.narrow(0, pairs, pairs);
///         activation::log_sigmoid(margin * self.beta).sum().neg()
///     }
///
///     /// The log-probability of each label, without gradients.
///     fn logps(&self, model: &CausalLm, pairs: &Pairs, pass: &AdapterPass) -> Result<Tensor<2>> {
///         let hidden = model.forward(&pairs.tokens, None, pass)?;
///         Ok(model.logps(hidden, &pairs.labels, &LogitOptions::default(), pass)?)
///     }
/// }
///
/// impl Objective for Dpo {
///     type Model = CausalLm;
///     type Batch = Pairs;
///
///     fn extent(&self, pairs: &Pairs) -> Extent {
///         Extent {
///             tokens: pairs.labels.len(),
///             supervised_tokens: pairs.labels.iter().filter(|label| **label >= 0).count(),
///             weight: pairs.tokens.batch() as f64 / 2.0,
///         }
///     }
///
///     fn accumulate(
///         &self,
///         model: &CausalLm,
///         pairs: &Pairs,
///         at: &MicroStep,
///         gradients: &mut GradientSum,
///     ) -> Result<BatchLoss> {
///         let reference = self.logps(&model.valid(), pairs, &AdapterPass::default())?;
///         let pass = at.dropout(&self.pass);
///         let forward = Backprop::new(model, &pairs.tokens, &pass);
///         let loss = forward.run(model, at, gradients, |hidden| {
///             let options = LogitOptions::default();
///             let policy = model.logps(hidden, &pairs.labels, &options, &pass)?;
///             Ok(self.loss(policy, Tensor::from_inner(reference)))
///         })?;
///         Ok(BatchLoss::new(loss))
///     }
///
///     fn evaluate(&self, model: &CausalLm, pairs: &Pairs) -> Result<BatchLoss> {
///         let reference = self.logps(model, pairs, &AdapterPass::default())?;
///         let loss = self.loss(self.logps(model, pairs, &self.pass)?, reference);
///         Ok(BatchLoss::new(loss.into_scalar::<f32>().into()))
///     }
/// }
/// ```
pub trait Objective: Send + Sync {
    /// What is trained.
    type Model: Module + Sync;

    /// What one forward and backward pass takes.
    type Batch: Sync;

    /// Checks the objective's own settings.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig) naming the field.
    fn validate(&self) -> Result<()> {
        Ok(())
    }

    /// How much is in a batch.
    fn extent(&self, batch: &Self::Batch) -> Extent;

    /// Adds the gradients of the batch's loss sum to `gradients`.
    ///
    /// `at` gives the random numbers, and runs the backward pass: [`MicroStep::backward`].
    ///
    /// # Errors
    /// Those of the forward pass.
    fn accumulate(
        &self,
        model: &Self::Model,
        batch: &Self::Batch,
        at: &MicroStep,
        gradients: &mut GradientSum,
    ) -> Result<BatchLoss>;

    /// The batch's loss sum, of a model without autodiff.
    ///
    /// # Errors
    /// Those of the forward pass.
    fn evaluate(&self, model: &Self::Model, batch: &Self::Batch) -> Result<BatchLoss>;

    /// The settings that a resumed run must have again.
    fn settings(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    /// What the objective has learned beside the model, for a checkpoint.
    fn state(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    /// Takes up what [`state`](Self::state) gave.
    ///
    /// # Errors
    /// When it is nothing of the kind.
    fn restore(&mut self, state: serde_json::Value) -> Result<()> {
        let _ = state;
        Ok(())
    }
}
