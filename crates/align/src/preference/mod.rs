//! Training on answers that are compared or judged.

mod batch;
mod feed;
mod objective;
mod report;
mod rows;

pub use batch::AnswerBatch;
pub use feed::{BatchOptions, PreferenceFeed};
pub use objective::{Preference, PreferenceLoss};
pub use report::PairScores;
pub use rows::{AnswerRows, Answers};
