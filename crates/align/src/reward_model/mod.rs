//! Reward models: a head and an adapter on the base, trained on pairs.

mod feed;
mod model;
mod objective;
mod report;

pub use feed::RewardFeed;
pub use model::RewardModel;
pub(crate) use model::score_all;
pub use objective::{RewardBatch, RewardTraining};
pub use report::{RewardReport, longer_answer_accuracy};
