//! Alignment against the reference implementation, derivations, and what must come of training.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

mod advantages;
mod bad_input;
mod derived;
mod golden_group;
mod golden_pairs;
mod golden_ppo;
mod golden_single;
mod goldens;
mod online;
mod preference;
mod resume;
mod reward_model;
mod sequences;
mod tiny;
