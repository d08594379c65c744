//! Tests of the whole crate.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod ab_votes;
mod builtin_tasks;
mod golden_metrics;
mod harness_errors;
mod judges;
mod lm_eval_golden;
mod reports;
mod safety_rates;
mod scripted;
mod statistics;
