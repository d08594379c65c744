//! Adapters on linear layers.
//!
//! Layer 1: stands on `flametune-quant`; knows neither architectures nor tokenizers.
//!
//! [`AdapterLinear`] is the slot that every linear projection of a model goes through, so that
//! `target_modules` of a PEFT configuration can name any of them.
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "tests fail by panicking"
    )
)]

mod linear;

pub use linear::AdapterLinear;
