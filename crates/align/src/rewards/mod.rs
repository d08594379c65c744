//! Where rewards come from: a model, a rule, a function, a judge.

mod function;
mod judge;
mod model;
mod overlong;
mod rule;
mod sum;

pub use function::FunctionReward;
pub use judge::JudgeReward;
pub use model::ModelReward;
pub(crate) use model::completed;
pub use overlong::overlong_penalty;
pub use rule::{Rule, RuleReward};
pub use sum::RewardSum;

use flametune_lm::CausalLm;

use crate::error::Result;

/// A completion to be rewarded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample<'a> {
    /// The ids of the prompt.
    pub prompt: &'a [u32],
    /// The ids that were generated, with the one that ended the generation.
    pub completion: &'a [u32],
    /// Whether the completion came to its end by itself.
    pub finished: bool,
    /// Which prompt it is, so that a reward can look up what it knows of it.
    pub index: usize,
    /// The text of the prompt, where there is a tokenizer.
    pub prompt_text: Option<&'a str>,
    /// The text of the completion, where there is a tokenizer.
    pub text: Option<&'a str>,
}

/// Says how good completions are.
pub trait Reward {
    /// The name under which the reward is logged.
    fn name(&self) -> &str;

    /// A number for each sample, the larger the better.
    ///
    /// `lm` is the model that everything shares, without autodiff.
    ///
    /// # Errors
    /// When a sample cannot be rewarded.
    fn score(&self, lm: &CausalLm, samples: &[Sample<'_>]) -> Result<Vec<f32>>;
}
