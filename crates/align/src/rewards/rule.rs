//! Rewards by rule, as recipes name them.

use flametune_lm::CausalLm;
use serde::{Deserialize, Serialize};

use super::{Reward, Sample};
use crate::error::{Error, Result};
use crate::host::{count, f32_of};

/// A property that a completion has more or less of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type", deny_unknown_fields)]
pub enum Rule {
    /// The share of these tokens.
    TokenShare {
        /// The ids.
        ids: Vec<u32>,
    },
    /// 1 for completions that come to their end by themselves, else 0.
    Finished,
    /// `−|n − words| / words`, with the number `n` of words: 0 at the target.
    Words {
        /// The wanted number.
        words: usize,
    },
    /// 1 for a text that contains this one, whatever its case, else 0.
    Contains {
        /// What is looked for.
        text: String,
    },
    /// The share of words that were not said before: 1 without a repetition.
    Distinct,
}

/// A reward by rule.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleReward {
    name: String,
    rule: Rule,
}

impl RuleReward {
    /// A reward by `rule`, logged under its name.
    pub fn new(rule: Rule) -> Self {
        let name = match rule {
            Rule::TokenShare { .. } => "token_share",
            Rule::Finished => "finished",
            Rule::Words { .. } => "words",
            Rule::Contains { .. } => "contains",
            Rule::Distinct => "distinct",
        };
        Self {
            name: name.to_owned(),
            rule,
        }
    }

    fn text<'a>(&self, sample: &Sample<'a>) -> Result<&'a str> {
        sample.text.ok_or_else(|| Error::NoText {
            reward: self.name.clone(),
        })
    }

    fn one(&self, sample: &Sample<'_>) -> Result<f32> {
        let reward = match &self.rule {
            Rule::TokenShare { ids } => {
                let found = sample.completion.iter().filter(|id| ids.contains(id));
                count(found.count()) / count(sample.completion.len().max(1))
            }
            Rule::Finished => f64::from(u8::from(sample.finished)),
            Rule::Words { words } => {
                let found = count(self.text(sample)?.split_whitespace().count());
                -(found - count(*words)).abs() / count((*words).max(1))
            }
            Rule::Contains { text } => {
                let found = self.text(sample)?.to_lowercase();
                f64::from(u8::from(found.contains(&text.to_lowercase())))
            }
            Rule::Distinct => {
                let text = self.text(sample)?.to_lowercase();
                let mut words: Vec<&str> = text.split_whitespace().collect();
                let all = words.len();
                words.sort_unstable();
                words.dedup();
                count(words.len()) / count(all.max(1))
            }
        };
        Ok(f32_of(reward))
    }
}

impl Reward for RuleReward {
    fn name(&self) -> &str {
        &self.name
    }

    fn score(&self, _lm: &CausalLm, samples: &[Sample<'_>]) -> Result<Vec<f32>> {
        samples.iter().map(|sample| self.one(sample)).collect()
    }
}
