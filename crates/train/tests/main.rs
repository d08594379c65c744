//! Training against the reference implementations.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

mod fit;
mod golden;
mod run;
mod step;
