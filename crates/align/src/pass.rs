//! From a batch to a sum of losses and what is logged of it, with gradients or without.

use burn::module::Module;
use burn::tensor::Tensor;
use flametune_kernels::in_pool;
use flametune_lm::{CausalLm, TokenBatch};
use flametune_peft::AdapterPass;
use flametune_train::optim::GradientSum;
use flametune_train::{Backprop, BatchLoss, MicroStep, Result};

use crate::metrics::Metrics;

/// A forward pass of the language model, whatever is computed of its hidden states.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Forward<'a> {
    /// The language model.
    pub(crate) lm: &'a CausalLm,
    /// The ids.
    pub(crate) tokens: &'a TokenBatch,
    /// The adapters.
    pub(crate) pass: &'a AdapterPass,
}

impl Forward<'_> {
    /// Adds the gradients of `loss`, a function of the hidden states `[batch, seq, d_model]`, for all
    /// of `whole`, which the language model is a part of.
    pub(crate) fn accumulate<M: Module>(
        self,
        whole: &M,
        recompute: bool,
        at: &MicroStep,
        gradients: &mut GradientSum,
        loss: impl FnOnce(Tensor<3>) -> Result<(Tensor<1>, Metrics)>,
    ) -> Result<BatchLoss> {
        let forward = Backprop {
            recompute,
            ..Backprop::new(self.lm, self.tokens, self.pass)
        };
        let mut parts = Metrics::default();
        let sum = forward.run(whole, at, gradients, |hidden| {
            let (sum, found) = loss(hidden)?;
            parts = found;
            Ok(sum)
        })?;
        Ok(parts.with_loss(sum))
    }

    /// The value of `loss` alone; the model has no autodiff.
    pub(crate) fn evaluate(
        self,
        loss: impl FnOnce(Tensor<3>) -> Result<(Tensor<1>, Metrics)> + Send,
    ) -> Result<BatchLoss> {
        in_pool(|| {
            let hidden = self.lm.forward(self.tokens, None, self.pass)?;
            let (sum, parts) = loss(hidden)?;
            Ok(parts.with_loss(f64::from(sum.into_scalar::<f32>())))
        })
    }
}
