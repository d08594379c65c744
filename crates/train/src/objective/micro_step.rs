//! The place of a micro-batch in a run.

use burn::tensor::{Gradients, Tensor};
use flametune_peft::{AdapterPass, DropoutKey};

use crate::random::mixed;

/// The place of a micro-batch in a run, and what follows from it.
///
/// Random numbers are functions of it and of nothing else, so a resumed run draws the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MicroStep {
    /// The seed of the run.
    pub seed: u64,
    /// Optimizer steps taken before.
    pub step: usize,
    /// The place of the batch in its step.
    pub index: usize,
    /// What losses are multiplied by before the backward pass.
    pub loss_scale: f64,
}

impl MicroStep {
    /// Batch `index` of the step after `step` steps, without loss scaling.
    pub const fn new(seed: u64, step: usize, index: usize) -> Self {
        Self {
            seed,
            step,
            index,
            loss_scale: 1.0,
        }
    }

    /// A number that no other micro-batch of the run has.
    pub fn key(&self) -> u64 {
        mixed(mixed(self.seed, self.step as u64), self.index as u64)
    }

    /// The pass with dropout.
    pub fn dropout(&self, pass: &AdapterPass) -> AdapterPass {
        pass.clone().with_dropout(DropoutKey {
            seed: self.seed,
            step: self.key(),
        })
    }

    /// The gradients of a loss, times [`loss_scale`](Self::loss_scale).
    ///
    /// # Panics
    /// When the loss depends on no parameter that is trained.
    pub fn backward(&self, loss: Tensor<1>) -> Gradients {
        if self.loss_scale == 1.0 {
            loss.backward()
        } else {
            (loss * self.loss_scale).backward()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_micro_batch_has_a_key_of_its_own() {
        let mut keys = Vec::new();
        for seed in 0..2 {
            for step in 0..8 {
                keys.extend((0..4).map(|index| MicroStep::new(seed, step, index).key()));
            }
        }
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 64);
    }
}
