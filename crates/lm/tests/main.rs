//! Models against the numbers of the reference implementation.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests fail by panicking and say loudly what they skip"
)]

mod adapter_methods;
mod adapters;
mod bad_input;
mod behaviour;
mod bottleneck;
mod gguf_export;
mod golden;
mod gradients;
mod initialisations;
mod models;
mod paged;
mod quantized;
mod resume;
mod saving;
mod virtual_tokens;
