//! A micro-batch of answers with everything that its loss needs beside the policy.

use flametune_data::{Collator, EncodedExample, EncodedJudged, EncodedPair};
use flametune_kernels::in_pool;
use flametune_lm::CausalLm;
use flametune_peft::AdapterPass;

use crate::error::Result;
use crate::host::numbers;
use crate::sequences::{Part, Sequence, SequenceBatch};

/// A micro-batch of pairs, chosen answers first, or of judged answers.
#[derive(Debug, Clone)]
pub struct AnswerBatch {
    /// The sequences.
    pub sequences: SequenceBatch,
    /// The log-probability of each answer under the reference; empty where none is needed.
    pub reference: Vec<f32>,
    /// Whether each judged answer is wanted; empty for pairs.
    pub labels: Vec<bool>,
    /// KTO's baseline.
    pub kl: f64,
    /// Pairs of the optimizer step for each token that fine-tuning learns from.
    pub pairs_per_token: f64,
}

impl AnswerBatch {
    /// A batch of pairs; `with_prompt` where the likelihood of the chosen prompt is learned too.
    ///
    /// # Errors
    /// Those of [`SequenceBatch::new`].
    pub fn pairs(
        pairs: &[&EncodedPair],
        with_prompt: bool,
        collator: &Collator,
        packing: Option<usize>,
    ) -> Result<Self> {
        let chosen = pairs.iter().map(|pair| Sequence {
            example: &pair.chosen,
            with_prompt,
        });
        let rejected = pairs.iter().map(|pair| Sequence {
            example: &pair.rejected,
            with_prompt: false,
        });
        let sequences: Vec<Sequence<'_>> = chosen.chain(rejected).collect();
        Ok(Self::of(SequenceBatch::new(&sequences, collator, packing)?))
    }

    /// A batch of judged answers.
    ///
    /// # Errors
    /// Those of [`SequenceBatch::new`].
    pub fn judged(
        judged: &[&EncodedJudged],
        collator: &Collator,
        packing: Option<usize>,
    ) -> Result<Self> {
        let sequences: Vec<Sequence<'_>> = judged
            .iter()
            .map(|answer| Sequence {
                example: &answer.example,
                with_prompt: false,
            })
            .collect();
        let mut batch = Self::of(SequenceBatch::new(&sequences, collator, packing)?);
        batch.labels = judged.iter().map(|answer| answer.label).collect();
        Ok(batch)
    }

    fn of(sequences: SequenceBatch) -> Self {
        Self {
            sequences,
            reference: Vec::new(),
            labels: Vec::new(),
            kl: 0.0,
            pairs_per_token: 0.0,
        }
    }

    /// Computes the reference's log-probabilities; `model` has no autodiff.
    ///
    /// # Errors
    /// Those of the forward pass.
    pub fn refer_to(&mut self, model: &CausalLm, reference: &AdapterPass) -> Result<()> {
        self.reference = answer_logps(model, &self.sequences, reference)?;
        Ok(())
    }

    /// Pairs or judged answers.
    pub fn items(&self) -> usize {
        match self.labels.is_empty() {
            true => self.sequences.len() / 2,
            false => self.labels.len(),
        }
    }

    /// Tokens that fine-tuning on the chosen answers learns from.
    pub(super) fn sft_tokens(&self, part: Part) -> usize {
        let chosen = 0..self.items();
        chosen
            .map(|index| self.sequences.range(index, part).len())
            .sum()
    }
}

/// The log-probability of each answer of a batch, without gradients; `model` has no autodiff.
///
/// # Errors
/// Those of the forward pass.
pub(super) fn answer_logps(
    model: &CausalLm,
    sequences: &SequenceBatch,
    pass: &AdapterPass,
) -> Result<Vec<f32>> {
    in_pool(|| {
        let hidden = model.forward(sequences.tokens(), None, pass)?;
        let logps = sequences.logps(model, hidden, pass)?;
        Ok(numbers(&sequences.sums(&logps, Part::Answer)))
    })
}

/// Each prompt with the answer to the next one's, from which KTO estimates the KL divergence; none is
/// longer than the longest of the answers' own sequences.
pub(super) fn mismatched(judged: &[&EncodedJudged]) -> Vec<EncodedExample> {
    let next = judged.iter().cycle().skip(1);
    let longest = judged.iter().map(|answer| answer.example.len()).max();
    judged
        .iter()
        .zip(next)
        .map(|(own, other)| {
            let (prompt, answer) = (own.prompt_tokens, other.prompt_tokens);
            let mut example = own.example.clone();
            example.input_ids.truncate(prompt);
            example.labels.truncate(prompt);
            example
                .input_ids
                .extend_from_slice(&other.example.input_ids[answer..]);
            example
                .labels
                .extend_from_slice(&other.example.labels[answer..]);
            example.input_ids.truncate(longest.unwrap_or(0));
            example.labels.truncate(longest.unwrap_or(0));
            example
        })
        .collect()
}
