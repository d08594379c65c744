//! Training against the reference implementations.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

mod adalora;
mod classify;
mod fit;
mod golden;
mod kl;
mod objective;
mod paged;
mod record;
mod run;
mod scaling;
mod sixteen_bits;
mod step;
