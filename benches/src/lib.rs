//! Speed and memory of Flametune, measured beside what a user would pick instead.
//!
//! Layer 5: may use every crate. The binaries print one JSON line a case ([`Record`]) on standard
//! output and say on standard error how far they are; `cargo xtask bench` runs them, keeps the
//! lines and writes `docs/BENCHMARKS.md` from them.
//!
//! A measurement is a race: both contenders are processes of their own that speak one protocol
//! ([`Request`], [`Reply`]), get the same token ids from the referee, and take turns run by run, so
//! that a busy or throttled machine hits both alike. What they answer is compared before their
//! times are: a run that computes something else is no result.
//!
//! Not here: storing results and building the peers' environment (`xtask`).

#![allow(
    clippy::disallowed_methods,
    reason = "a bench looks at its environment and at the clock"
)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "tests fail by panicking"
    )
)]

mod adapt;
mod burn_model;
mod cases;
mod contender;
mod dpo;
mod evaluation;
mod growth;
mod machine;
mod operate;
mod operations;
mod options;
mod prepare_data;
mod protocol;
mod race;
mod record;
mod sample;
mod train;
mod training;
mod worker;

pub use cases::{Case, SPEED_CASES, encode, memory_job, text_ids};
pub use contender::Contender;
pub use evaluation::{EVALUATION_CASES, EvaluationCase, check_answers};
pub use growth::exponent;
pub use machine::{CpuTimes, commit, description};
pub use operations::{OPERATION_CASES, OperationCase, Opponent};
pub use options::Options;
pub use protocol::{
    AdapterKind, Answer, Evaluated, Evaluation, Finished, Job, Method, NewAdapter, Number,
    Operated, Operation, OperationKind, Packed, Quantization, Reply, Request, Rows, Stepped, Timed,
    Tokenized, Training,
};
pub use race::{Lap, Race, Side, agreement, check};
pub use record::{Peer, Record};
pub use sample::Sample;
pub use training::{Measure, Rival, TRAINING_CASES, TrainingCase, check_losses};
pub use worker::serve;
