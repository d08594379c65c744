//! Tests of the crate against reference numbers and hostile input.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

mod builtin;
mod chat_golden;
mod check;
mod collate;
mod curated;
mod encode;
mod encode_answers;
mod encode_limits;
mod fixtures;
mod folder;
mod hostile;
mod pack;
mod stream;
mod tokenizer_golden;
