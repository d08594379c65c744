//! A reward by a trained reward model on the same base.

use flametune_data::{Collator, EncodedExample, IGNORE_INDEX};
use flametune_lm::CausalLm;
use flametune_peft::AdapterPass;

use super::{Reward, Sample};
use crate::error::Result;
use crate::head::ScalarHead;
use crate::reward_model::score_all;
use crate::sequences::{Sequence, SequenceBatch};

/// A reward by an adapter and a head on the base that the policy stands on: no second model.
#[derive(Debug)]
pub struct ModelReward {
    /// The reward's adapter, loaded into the shared model under a name of its own.
    pub pass: AdapterPass,
    /// The reward's head, without autodiff.
    pub head: ScalarHead,
    /// How sequences are padded.
    pub collator: Collator,
    /// Sequences in a forward pass.
    pub batch_size: usize,
}

impl Reward for ModelReward {
    fn name(&self) -> &str {
        "model"
    }

    fn score(&self, lm: &CausalLm, samples: &[Sample<'_>]) -> Result<Vec<f32>> {
        let mut scores = Vec::with_capacity(samples.len());
        for chunk in samples.chunks(self.batch_size.max(1)) {
            let examples: Vec<EncodedExample> = chunk.iter().map(example).collect();
            let sequences: Vec<Sequence<'_>> = examples
                .iter()
                .map(|example| Sequence {
                    example,
                    with_prompt: false,
                })
                .collect();
            let batch = SequenceBatch::new(&sequences, &self.collator, None)?;
            scores.extend(score_all(
                lm,
                &self.head,
                &batch,
                &batch.last_places(),
                &self.pass,
            )?);
        }
        Ok(scores)
    }
}

/// Prompt and completion, the completion with labels.
fn example(sample: &Sample<'_>) -> EncodedExample {
    completed(sample.prompt, sample.completion)
}

/// Prompt and completion, the completion with labels.
pub(crate) fn completed(prompt: &[u32], completion: &[u32]) -> EncodedExample {
    let ignored = std::iter::repeat_n(IGNORE_INDEX, prompt.len());
    let labels = ignored.chain(completion.iter().map(|&id| i64::from(id)));
    EncodedExample {
        input_ids: [prompt, completion].concat(),
        labels: labels.collect(),
    }
}
