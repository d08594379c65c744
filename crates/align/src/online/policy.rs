//! What online methods train.

use burn::module::Module;
use flametune_lm::CausalLm;

use crate::head::ScalarHead;

/// A language model with, for PPO, a value head on its trunk.
#[derive(Module, Debug)]
pub struct Policy {
    /// The base with the policy's adapter, and perhaps others.
    pub lm: CausalLm,
    /// The value of a state; absent where a method has no critic.
    pub value: Option<ScalarHead>,
}

impl Policy {
    /// A policy with a value head that says 0; `d_model` is the width of hidden states.
    #[must_use]
    pub fn with_value(lm: CausalLm, d_model: usize) -> Self {
        let value = Some(ScalarHead::zeros(d_model, &lm.device()));
        Self { lm, value }
    }

    /// A policy without a critic.
    #[must_use]
    pub fn without_value(lm: CausalLm) -> Self {
        Self { lm, value: None }
    }
}
