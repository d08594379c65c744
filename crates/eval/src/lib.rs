//! Numbers people can rely on: benchmarks, metrics, statistics, judges and human comparisons.
//!
//! Layer 4: stands on `flametune-infer`, `flametune-lm` and `flametune-data`; knows no training and opens no socket.
//!
//! - [`TaskLibrary`], [`evaluate`]: tasks in lm-eval's YAML, with its prompts, scores and standard errors
//! - [`LanguageModel`]: what is evaluated; [`CausalModel`] is one of this workspace; [`AnswerCache`] keeps its answers
//! - [`metrics`]: ROUGE, BLEU, chrF, exact match, F1, correlation, perplexity, calibration
//! - [`stats`]: standard errors, intervals, paired tests, power, agreement, Bradley-Terry and Elo
//! - [`compare`]: a base against its adapters, item by item; tables, HTML reports and gates
//! - [`judge`]: models that rate and compare answers; [`ab`]: people who do; [`safety`]: refusals and harm
//!
//! # Examples
//! ```
//! use flametune_eval::metrics::{Rouge, rouge};
//! use flametune_eval::stats::compare_paired;
//!
//! assert_eq!(rouge("the cat sat", "the cat sat", Rouge::L, false).fmeasure, 1.0);
//!
//! let base = [0.0, 1.0, 0.0, 0.0, 1.0, 0.0];
//! let tuned = [1.0, 1.0, 0.0, 1.0, 1.0, 0.0];
//! let change = compare_paired(&base, &tuned, 1000, 0).unwrap();
//! assert!(change.p_value > 0.05, "six items show nothing");
//! ```
//!
//! Not here: downloads, sockets (`flametune-serve`), training.
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "tests fail by panicking"
    )
)]

pub mod ab;
mod cache;
mod causal;
pub mod compare;
mod error;
mod harness;
pub mod judge;
pub mod metrics;
mod model;
pub mod python;
pub mod safety;
pub mod stats;

pub use cache::{AnswerCache, answer_cached};
pub use causal::CausalModel;
pub use error::{Error, Place, Result};
pub use harness::{
    DataFolders, Document, EvalOptions, Evaluation, GenerationOptions, GroupConfig, GroupResult,
    Item, MetricResult, OutputType, Progress, PromptOptions, Sample, Selection, Task, TaskConfig,
    TaskLibrary, TaskResult, evaluate,
};
pub use model::{ChatTurn, LanguageModel, ModelRequest, ModelResponse};
