//! Tests of the public interface: requests in, responses out, without a model.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::needless_pass_by_value,
    reason = "tests fail by panicking, and hand over JSON as it stands"
)]

mod abuse;
mod adapters;
mod chat;
mod completions;
mod embeddings;
mod limits;
mod operation;
mod page;
mod script;
mod slow;
mod socket;
#[cfg(feature = "otel")]
mod trace;
