//! Adapters into a model's weights, measured by what it answers.

use burn::tensor::Tensor;
use flametune_peft::{AdapterPass, MergeOptions, MergeReport, merge_and_unload_measured};

use crate::batch::TokenBatch;
use crate::error::{Error, Result};
use crate::model::CausalLm;

impl CausalLm {
    /// Merges adapters for good and measures how far that moves the logits after every token of
    /// `prompts`; without adapters it makes a quantized model dense.
    ///
    /// # Errors
    /// Those of [`merge_and_unload_measured`] and [`forward`](Self::forward). The model is then as it
    /// was.
    pub fn merge_and_unload(
        &mut self,
        names: &[&str],
        options: &MergeOptions,
        prompts: &[Vec<u32>],
    ) -> Result<MergeReport> {
        merge_and_unload_measured(self, names, options, |model, pass| {
            model.prompt_logits(prompts, pass)
        })
    }

    /// The logits after every token of several prompts, with the adapters of `pass`.
    ///
    /// # Shapes
    /// - returns `[1, tokens, vocab]`, one prompt after the other, so that none has padding
    ///
    /// # Errors
    /// [`Error::EmptyInput`] when there is no prompt, or one without tokens; those of
    /// [`forward`](Self::forward).
    pub fn prompt_logits(&self, prompts: &[Vec<u32>], pass: &AdapterPass) -> Result<Tensor<3>> {
        if prompts.is_empty() {
            return Err(Error::EmptyInput);
        }
        let each = prompts.iter().map(|prompt| {
            let batch = TokenBatch::from_rows(std::slice::from_ref(prompt))?;
            Ok(self.logits(self.forward(&batch, None, pass)?, pass))
        });
        Ok(Tensor::cat(each.collect::<Result<Vec<_>>>()?, 1))
    }

    /// Prompts for a model of which no text is known: ids scattered over its vocabulary, the same ones
    /// every time.
    pub fn scattered_prompts(&self, rows: usize, length: usize) -> Vec<Vec<u32>> {
        let vocab = (self.vocab_size() as u64).max(1);
        let length = length.min(self.max_position_embeddings()).max(1);
        let id = |place: usize| {
            let mixed = (place as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
            u32::try_from(mixed % vocab).unwrap_or(0)
        };
        (0..rows)
            .map(|row| (0..length).map(|at| id(row * length + at)).collect())
            .collect()
    }
}
