//! Training against the reference implementations.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

mod classify;
mod fit;
mod golden;
mod kl;
mod objective;
mod paged;
mod record;
mod run;
mod scaling;
mod step;
