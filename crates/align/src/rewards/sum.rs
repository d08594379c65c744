//! Several rewards as one.

use flametune_lm::CausalLm;

use super::{Reward, Sample};
use crate::error::{Error, Result};
use crate::host::f32_of;
use crate::metrics::Metrics;

/// A weighted sum of rewards, each checked and logged.
#[derive(Default)]
pub struct RewardSum<'a> {
    terms: Vec<(Box<dyn Reward + 'a>, f64)>,
}

impl std::fmt::Debug for RewardSum<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self
            .terms
            .iter()
            .map(|(term, weight)| (term.name(), weight));
        f.debug_map().entries(names).finish()
    }
}

impl<'a> RewardSum<'a> {
    /// One reward.
    pub fn of(reward: impl Reward + 'a) -> Self {
        Self::default().with(reward, 1.0)
    }

    /// The same with one more term.
    #[must_use]
    pub fn with(mut self, reward: impl Reward + 'a, weight: f64) -> Self {
        self.terms.push((Box::new(reward), weight));
        self
    }

    /// The reward of each sample, and the mean of each term as `rewards/NAME/mean`.
    ///
    /// # Errors
    /// Those of the terms; [`Error::RewardCount`] for another number of rewards than of samples,
    /// [`Error::RewardNotFinite`] for one that is no number.
    pub fn score(&self, lm: &CausalLm, samples: &[Sample<'_>]) -> Result<(Vec<f32>, Metrics)> {
        let mut sums = vec![0.0; samples.len()];
        let mut parts = Metrics::default();
        for (term, weight) in &self.terms {
            let found = term.score(lm, samples)?;
            let reward = term.name().to_owned();
            if found.len() != samples.len() {
                return Err(Error::RewardCount {
                    reward,
                    expected: samples.len(),
                    got: found.len(),
                });
            }
            if let Some(sample) = found.iter().position(|value| !value.is_finite()) {
                return Err(Error::RewardNotFinite {
                    reward,
                    sample,
                    value: found[sample],
                });
            }
            let numbers = found.iter().map(|value| f64::from(*value));
            parts.extend(format!("rewards/{reward}/mean"), numbers);
            for (sum, value) in sums.iter_mut().zip(&found) {
                *sum += weight * f64::from(*value);
            }
        }
        Ok((sums.into_iter().map(f32_of).collect(), parts))
    }
}
