//! A reward by a function of the samples.

use flametune_lm::CausalLm;

use super::{Reward, Sample};
use crate::error::Result;

/// A reward by a function of one sample.
///
/// # Examples
/// ```
/// use flametune_align::rewards::{FunctionReward, Sample};
///
/// // The share of token 7.
/// let share = FunctionReward::new("sevens", |sample: &Sample<'_>| {
///     let sevens = sample.completion.iter().filter(|id| **id == 7).count();
///     Ok(sevens as f32 / sample.completion.len() as f32)
/// });
/// # let _ = share;
/// ```
pub struct FunctionReward<F> {
    name: String,
    function: F,
}

impl<F: Fn(&Sample<'_>) -> Result<f32>> FunctionReward<F> {
    /// A reward by `function`, logged under `name`.
    pub fn new(name: impl Into<String>, function: F) -> Self {
        Self {
            name: name.into(),
            function,
        }
    }
}

impl<F> std::fmt::Debug for FunctionReward<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("FunctionReward").field(&self.name).finish()
    }
}

impl<F: Fn(&Sample<'_>) -> Result<f32>> Reward for FunctionReward<F> {
    fn name(&self) -> &str {
        &self.name
    }

    fn score(&self, _lm: &CausalLm, samples: &[Sample<'_>]) -> Result<Vec<f32>> {
        samples.iter().map(&self.function).collect()
    }
}
