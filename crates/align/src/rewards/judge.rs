//! A reward by a judge: a language model that is asked whether a completion is good.

use flametune_lm::{CausalLm, TokenBatch};
use flametune_peft::AdapterPass;

use super::{Reward, Sample};
use crate::error::Result;
use crate::host::numbers;

/// A reward by a question to a language model: the probability of "yes" against "no".
///
/// The judge is the shared base, or an adapter on it; its answer is read from the logits after the
/// question, so nothing is sampled and nothing is parsed.
///
/// # Source
/// - Zheng et al. 2023, Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena, arXiv:2306.05685,
///   §3.1: grading of single answers
pub struct JudgeReward<Q> {
    /// The judge's adapters: none for the base itself.
    pub pass: AdapterPass,
    /// The ids of the question about a sample, up to the judge's answer.
    pub question: Q,
    /// The tokens of "yes" and "no".
    pub answers: (u32, u32),
}

impl<Q> std::fmt::Debug for JudgeReward<Q> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JudgeReward")
            .field("pass", &self.pass)
            .field("answers", &self.answers)
            .finish_non_exhaustive()
    }
}

impl<Q: Fn(&Sample<'_>) -> Result<Vec<u32>>> Reward for JudgeReward<Q> {
    fn name(&self) -> &str {
        "judge"
    }

    fn score(&self, lm: &CausalLm, samples: &[Sample<'_>]) -> Result<Vec<f32>> {
        let each = samples.iter().map(|sample| {
            let batch = TokenBatch::from_rows(&[(self.question)(sample)?])?;
            let hidden = lm.forward(&batch, None, &self.pass)?;
            let last = hidden.narrow(1, batch.seq() - 1, 1);
            let logits = numbers(&lm.logits(last, &self.pass));
            let of = |id: u32| logits.get(id as usize).copied().unwrap_or(f32::NAN);
            let gap = of(self.answers.0) - of(self.answers.1);
            Ok(1.0 / (1.0 + (-gap).exp()))
        });
        each.collect()
    }
}
