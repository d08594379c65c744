//! Reward models: a head and an adapter on the base, trained on pairs or on steps.

mod batch;
mod feed;
mod model;
mod objective;
mod report;

pub use batch::{RewardBatch, RewardTarget};
pub use feed::RewardFeed;
pub use model::RewardModel;
pub(crate) use model::score_all;
pub use objective::RewardTraining;
pub use report::{RewardReport, commonest_label_accuracy, longer_answer_accuracy};
