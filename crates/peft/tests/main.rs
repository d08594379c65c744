//! Adapters on a tiny model of slots: what must hold of every method, and what bad input does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

#[macro_use]
mod suite;
mod bad_input;
mod bottleneck;
mod burn_lora;
mod lora;
mod merging;
mod methods;
mod sets;
mod tasks;
mod tiny;
