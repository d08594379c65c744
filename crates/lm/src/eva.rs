//! LoRA that begins at the directions in which a model's own activations vary most.

use burn::module::Module;
use flametune_peft::{EvaInit, LoraConfig};

use crate::batch::TokenBatch;
use crate::error::Result;
use crate::model::CausalLm;

/// A batch for EVA, and which of its tokens count.
#[derive(Debug, Clone)]
pub struct EvaBatch {
    /// The tokens.
    pub batch: TokenBatch,
    /// For each token, row after row, whether it counts: no padding, and with `use_label_mask` only what
    /// is supervised.
    pub counts: Vec<bool>,
}

impl CausalLm {
    /// Adds a LoRA adapter that begins with EVA, from the activations of `batches`, which are read again
    /// and again until every direction that counts has settled, but at most `max_batches` times in all.
    ///
    /// Returns whether all settled.
    ///
    /// # Errors
    /// Those of [`EvaInit`] and [`forward`](Self::forward).
    pub fn inject_eva(
        &mut self,
        name: &str,
        config: &LoraConfig,
        seed: u64,
        batches: &[EvaBatch],
        max_batches: usize,
    ) -> Result<bool> {
        let mut eva = EvaInit::begin(self, name, config, seed)?;
        // Observers are shared with the copy, and nothing is kept for a backward pass.
        let plain = self.valid();
        let mut settled = false;
        for EvaBatch { batch, counts } in batches.iter().cycle().take(max_batches) {
            let step = plain.forward(batch, None, &eva.pass());
            let update = step.and_then(|_| Ok(eva.update(counts)?));
            match update {
                Ok(all) => settled = all,
                Err(error) => {
                    flametune_peft::remove(self, name)?;
                    return Err(error);
                }
            }
            if settled {
                break;
            }
        }
        eva.finish(self)?;
        Ok(settled)
    }
}
