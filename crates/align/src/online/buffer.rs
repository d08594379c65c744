//! What an online run has sampled and not yet learned from.

use serde::{Deserialize, Serialize};

use super::rollout::Completion;

/// The completions of an iteration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Buffer {
    /// What was sampled.
    pub completions: Vec<Completion>,
    /// What is logged of it, with the iteration's first step.
    pub logged: Vec<(String, f64)>,
    /// The epoch over it, from 0.
    pub epoch: usize,
    /// Minibatches of the epoch that were handed out.
    pub mini_batch: usize,
}

/// Where an online run stands, with what it has sampled and not yet learned from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OnlineCursor {
    /// Iterations begun.
    pub iteration: usize,
    /// The weight of the KL divergence.
    pub kl_coef: f64,
    /// The iteration that is under way.
    pub buffer: Option<Buffer>,
}
