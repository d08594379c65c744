//! Training: the step, optimizers, schedules, checkpoints and the record of a run.
//!
//! Layer 3: stands on `lm`, `peft`, `quant`, `kernels` and `data`; knows neither reinforcement
//! learning nor HTTP.
//!
//! - [`Trainer`]: one optimizer step after another, configured by [`TrainConfig`]
//! - [`Objective`]: what a run minimises; [`Sft`] is supervised fine-tuning
//! - [`fit::fit`]: a whole run over a [`fit::Feed`], with evaluations, checkpoints, samples and an
//!   end; a [`fit::FitObserver`] is told what happens
//! - [`classify`]: an encoder with a head, trained on texts with classes
//! - [`record`]: log, TensorBoard, HTML report and store of runs; [`doctor`]: what they show;
//!   [`plan`]: the memory of a run before it runs
//! - [`checkpoint`]: everything a run needs to go on, bit for bit
//! - [`optim`]: AdamW and Lion, with averages in 32 or 8 bits
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "tests fail by panicking"
    )
)]

pub mod checkpoint;
pub mod classify;
mod config;
pub mod doctor;
mod early_stopping;
mod error;
pub mod fit;
mod guard;
mod loss_scaling;
mod objective;
pub mod optim;
pub mod plan;
mod random;
mod ranks;
pub mod record;
mod schedule;
mod trainer;

pub use config::{TrainConfig, Warmup};
pub use early_stopping::{Best, EarlyStopping};
pub use error::{Error, Result};
pub use guard::SpikeGuard;
pub use loss_scaling::{LossScale, LossScaling};
pub use objective::{
    Backprop, BaseKl, BatchLoss, Extent, MicroStep, Noise, Objective, Sft, SftOptions,
    next_token_labels, token_batch,
};
pub use schedule::Schedule;
pub use trainer::{EvalReport, Grouping, StepReport, Trainer};
