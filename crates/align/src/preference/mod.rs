//! Training on answers that are compared or judged.

mod batch;
mod feed;
mod objective;
mod rows;

pub use batch::AnswerBatch;
pub use feed::{BatchOptions, PreferenceFeed};
pub use objective::{Preference, PreferenceLoss};
pub use rows::{AnswerRows, Answers};
