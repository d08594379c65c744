//! Integration tests: processors against goldens, draws against their distribution, a real model.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "tests fail by panicking and their numbers are small"
)]

mod distribution;
mod fixture;
mod golden;
mod model;
mod properties;
