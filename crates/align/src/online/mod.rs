//! Online methods: completions are sampled, rewarded and learned from in one process.
//!
//! One iteration of [`OnlineFeed`]:
//! 1. the live policy continues some prompts; it is the model in training itself, no copy;
//! 2. one pass without gradients gives the log-probabilities and values of what was sampled, another
//!    without the adapter those of the reference;
//! 3. [`rewards`](crate::rewards) score the completions, and the KL divergence is taken off;
//! 4. advantages follow from rewards, as the method says;
//! 5. minibatches of the completions make optimizer steps, several epochs long, unless the policy
//!    moves too far from the one that sampled.

mod buffer;
mod estimate;
mod feed;
mod measure;
mod objective;
mod options;
mod policy;
mod rollout;

pub use buffer::{Buffer, OnlineCursor};
pub use feed::{OnlineFeed, Prompts};
pub use objective::{Online, OnlineBatch};
pub use options::{Method, OnlineOptions, PpoOptions, RlooOptions, RolloutOptions};
pub use policy::Policy;
pub use rollout::Completion;
