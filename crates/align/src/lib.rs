//! Preference losses, reward models and reinforcement learning on one base model.
//!
//! Layer 4: stands on `train`, `infer`, `lm`, `peft` and `data`; knows neither HTTP nor benchmarks.
//!
//! Policy, reference, reward model and value are the same base in memory: adapters and small heads
//! on it, chosen for each forward pass.
//!
//! - [`losses`]: DPO and its relatives, KTO, ORPO, CPO and SimPO, reward models, PPO, GRPO, RLOO: pure
//!   functions of log-probabilities
//! - [`advantages`]: GAE, whitening, groups, leave-one-out; [`KlEstimator`], [`KlControl`]
//! - [`SequenceBatch`]: answers in a batch, padded or packed, and their log-probabilities
//! - [`preference`]: training on pairs and judged answers
//! - [`reward_model`]: training a reward model; [`rewards`]: where rewards come from
//! - [`online`]: PPO, GRPO, RLOO and REINFORCE++ with rollouts in the same process
//!
//! # Examples
//! ```
//! use burn::tensor::{Device, Tensor};
//! use flametune_align::losses::{DpoKind, DpoOptions, PairLogps, dpo};
//!
//! // Log-probabilities of two chosen answers, then of the two rejected ones.
//! let device = Device::flex();
//! let policy = PairLogps::halves(Tensor::from_floats([-3.0, -4.0, -6.0, -4.0], &device));
//! let reference = PairLogps::halves(Tensor::from_floats([-4.0, -4.0, -4.0, -4.0], &device));
//! let output = dpo(&policy, &reference, &[2; 4], None, &DpoOptions::of(DpoKind::Sigmoid, 0.1));
//! assert_eq!(output.parts.mean("rewards/accuracies"), Some(0.5));
//! ```
//!
//! Not here: tokenizers and templates, the optimizer, generation itself, files of adapters.
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "tests fail by panicking"
    )
)]

pub mod advantages;
mod error;
mod head;
mod host;
mod kl;
pub mod losses;
mod metrics;
pub mod online;
mod pass;
pub mod preference;
mod reference;
pub mod reward_model;
pub mod rewards;
mod sequences;

pub use error::{Error, Result};
pub use head::{HEAD_FILE, ScalarHead, vocabulary_digest};
pub use kl::{KlControl, KlEstimator};
pub use metrics::Metrics;
pub use reference::ReferenceCache;
pub use sequences::{Part, Sequence, SequenceBatch};
