//! Sequence classification: texts with classes, an encoder with a head, and what it scores.
//!
//! The encoder stays frozen under an adapter; the head is new and is trained as a whole
//! (`modules_to_save` in PEFT's files, `task_type` `SEQ_CLS`).

mod head;
mod loss;
mod objective;
mod rows;
mod scores;

pub use head::add_head;
pub use loss::{class_cross_entropy, class_scores, masked_tokens};
pub use objective::{Classification, ClassifiedData, score};
pub use rows::ClassifiedRows;
pub use scores::{ClassScores, Scores};
