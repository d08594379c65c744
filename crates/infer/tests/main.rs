//! Integration tests: processors against goldens, draws against their distribution, a real model.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "tests fail by panicking and their numbers are small"
)]

mod distribution;
mod embedding;
mod engine;
mod engine_adapters;
mod engine_soak;
mod fixture;
mod golden;
#[cfg(feature = "guided")]
mod guided;
mod model;
mod properties;
mod scoring;
mod speculation;
