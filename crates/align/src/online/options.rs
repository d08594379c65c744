//! What an online run is told.

use serde::{Deserialize, Serialize};

use crate::advantages::ScaleRewards;
use crate::error::{Error, Result};
use crate::kl::{KlControl, KlEstimator};
use crate::losses::GroupOptions;

/// PPO's options, by TRL's names.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PpoOptions {
    /// How far a token's probability ratio may be from one.
    pub cliprange: f64,
    /// How far a value may be from the one when sampled.
    pub cliprange_value: f64,
    /// Weight of the value's loss.
    pub vf_coef: f64,
    /// Discount of later rewards.
    pub gamma: f64,
    /// GAE's `λ`.
    pub lam: f64,
    /// Whether shaped rewards are brought to unit variance.
    pub whiten_rewards: bool,
}

impl Default for PpoOptions {
    fn default() -> Self {
        Self {
            cliprange: 0.2,
            cliprange_value: 0.2,
            vf_coef: 0.1,
            gamma: 1.0,
            lam: 0.95,
            whiten_rewards: false,
        }
    }
}

/// RLOO's options, by TRL's names.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RlooOptions {
    /// How far a completion's probability ratio may fall.
    pub epsilon: f64,
    /// How far it may rise.
    pub epsilon_high: f64,
    /// Whether advantages are brought to zero mean and unit deviation.
    pub normalize_advantages: bool,
}

impl Default for RlooOptions {
    fn default() -> Self {
        Self {
            epsilon: 0.2,
            epsilon_high: 0.2,
            normalize_advantages: false,
        }
    }
}

/// The method.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Method {
    /// PPO: a critic, GAE, clipped losses.
    Ppo(PpoOptions),
    /// GRPO and its relatives: completions of one prompt compared with each other.
    Grpo {
        /// The loss.
        #[serde(flatten)]
        loss: GroupOptions,
        /// What rewards are divided by.
        #[serde(default)]
        scale_rewards: ScaleRewards,
        /// Whether groups whose rewards are all the same are left out.
        #[serde(default)]
        dynamic_sampling: bool,
    },
    /// RLOO: each completion compared with the others of its prompt.
    Rloo(RlooOptions),
    /// REINFORCE++: returns normalised over the batch.
    ReinforcePlusPlus {
        /// How far a token's probability ratio may be from one.
        cliprange: f64,
        /// Discount of later rewards.
        gamma: f64,
    },
}

impl Method {
    /// Whether completions are compared within groups.
    pub fn has_groups(&self) -> bool {
        matches!(self, Self::Grpo { .. } | Self::Rloo(_))
    }

    /// Whether a value head is trained.
    pub fn has_value(&self) -> bool {
        matches!(self, Self::Ppo(_))
    }
}

/// How completions are sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutOptions {
    /// Prompts of an iteration.
    pub prompts: usize,
    /// Completions of each prompt.
    pub num_generations: usize,
    /// Most tokens of a completion.
    pub max_completion_length: usize,
    /// Completions that are sampled together.
    pub batch_size: usize,
}

impl Default for RolloutOptions {
    fn default() -> Self {
        Self {
            prompts: 8,
            num_generations: 4,
            max_completion_length: 64,
            batch_size: 16,
        }
    }
}

/// What an online run is told.
///
/// Tokens are drawn from the policy as it is, at temperature one and without cut-offs, so that
/// probability ratios are those of what was sampled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OnlineOptions {
    /// The method.
    pub method: Method,
    /// How completions are sampled.
    #[serde(default)]
    pub rollout: RolloutOptions,
    /// Weight of the KL divergence that is taken off rewards; 0 needs no reference.
    #[serde(default)]
    pub kl_coef: f64,
    /// How the divergence is estimated.
    #[serde(default)]
    pub kl_estimator: KlEstimator,
    /// How its weight changes.
    #[serde(default = "fixed")]
    pub kl_control: KlControl,
    /// How often the completions of an iteration are gone through.
    #[serde(default = "one")]
    pub num_epochs: usize,
    /// Optimizer steps of an epoch.
    #[serde(default = "one")]
    pub num_mini_batches: usize,
    /// Sequences of a forward and backward pass.
    #[serde(default = "four")]
    pub micro_batch_size: usize,
    /// The divergence from the sampling policy, `½·mean((logp − old)²)`, above which no further epoch
    /// begins; 0 for none.
    #[serde(default)]
    pub target_kl: f64,
    /// Taken off the reward of completions that did not come to their end.
    #[serde(default)]
    pub missing_eos_penalty: f64,
    /// Tokens before the limit over which DAPO's penalty on long completions rises; 0 for none.
    #[serde(default)]
    pub overlong_cache: usize,
}

fn fixed() -> KlControl {
    KlControl::Fixed
}

fn one() -> usize {
    1
}

fn four() -> usize {
    4
}

impl OnlineOptions {
    /// A method with the usual options.
    pub fn new(method: Method) -> Self {
        Self {
            method,
            rollout: RolloutOptions::default(),
            kl_coef: 0.0,
            kl_estimator: KlEstimator::default(),
            kl_control: KlControl::Fixed,
            num_epochs: 1,
            num_mini_batches: 1,
            micro_batch_size: 4,
            target_kl: 0.0,
            missing_eos_penalty: 0.0,
            overlong_cache: 0,
        }
    }

    /// Completions of an iteration.
    pub fn completions(&self) -> usize {
        self.rollout.prompts * self.rollout.num_generations
    }

    /// Optimizer steps of an iteration that is not ended early.
    pub fn steps_per_iteration(&self) -> usize {
        self.num_epochs * self.num_mini_batches
    }

    /// Whether log-probabilities under the reference are needed.
    pub(super) fn needs_reference(&self) -> bool {
        let in_loss = matches!(self.method, Method::Grpo { loss, .. } if loss.beta > 0.0);
        in_loss || self.kl_coef > 0.0
    }

    /// Checks every number.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] naming the field.
    pub fn validate(&self) -> Result<()> {
        let refused = |field, reason: String| Err(Error::InvalidOption { field, reason });
        for (field, value) in [
            ("prompts", self.rollout.prompts),
            ("num_generations", self.rollout.num_generations),
            ("max_completion_length", self.rollout.max_completion_length),
            ("batch_size", self.rollout.batch_size),
            ("num_epochs", self.num_epochs),
            ("num_mini_batches", self.num_mini_batches),
            ("micro_batch_size", self.micro_batch_size),
        ] {
            if value == 0 {
                return refused(field, "must be at least 1, got 0".to_owned());
            }
        }
        for (field, value) in [
            ("kl_coef", self.kl_coef),
            ("target_kl", self.target_kl),
            ("missing_eos_penalty", self.missing_eos_penalty),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                let reason = format!("must be finite and not negative, got {value}");
                return refused(field, reason);
            }
        }
        self.kl_control.validate()?;
        if self.num_mini_batches > self.completions() {
            let reason = format!(
                "must be at most the {} completions of an iteration, got {}",
                self.completions(),
                self.num_mini_batches
            );
            return refused("num_mini_batches", reason);
        }
        if self.overlong_cache > self.rollout.max_completion_length {
            let reason = format!(
                "must be at most max_completion_length, {}, got {}",
                self.rollout.max_completion_length, self.overlong_cache
            );
            return refused("overlong_cache", reason);
        }
        if self.method.has_groups() && self.rollout.num_generations < 2 {
            let reason = "must be at least 2 where completions are compared, got 1";
            return refused("num_generations", reason.to_owned());
        }
        self.validate_method()
    }

    fn validate_method(&self) -> Result<()> {
        let positive = |field, value: f64| match value.is_finite() && value > 0.0 {
            true => Ok(()),
            false => {
                let reason = format!("must be finite and above 0, got {value}");
                Err(Error::InvalidOption { field, reason })
            }
        };
        let unit = |field, value: f64| match (0.0..=1.0).contains(&value) {
            true => Ok(()),
            false => {
                let reason = format!("must be between 0 and 1, got {value}");
                Err(Error::InvalidOption { field, reason })
            }
        };
        match self.method {
            Method::Ppo(options) => {
                positive("cliprange", options.cliprange)?;
                positive("cliprange_value", options.cliprange_value)?;
                positive("vf_coef", options.vf_coef)?;
                unit("gamma", options.gamma)?;
                unit("lam", options.lam)
            }
            Method::Grpo { loss, .. } => loss.validate(),
            Method::Rloo(options) => {
                positive("epsilon", options.epsilon)?;
                positive("epsilon_high", options.epsilon_high)
            }
            Method::ReinforcePlusPlus { cliprange, gamma } => {
                positive("cliprange", cliprange)?;
                unit("gamma", gamma)
            }
        }
    }
}
