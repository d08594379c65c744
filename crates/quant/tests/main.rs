//! Tests of the public interface.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "tests fail by panicking"
)]

mod bnb_layout;
mod gguf_bytes;
mod gguf_golden;
mod gguf_hostile;
mod gguf_mutations;
mod gguf_write;
mod golden;
mod quant_golden;
mod quant_properties;
