//! Adapters on frozen models, in the files of Hugging Face PEFT.
//!
//! Layer 1: stands on `quant` and `kernels`; knows neither architectures nor tokenizers.
//!
//! ```
//! use flametune_peft::{
//!     LoraConfig, Result, Slots, TargetModules, TrainableReport, inject, report, save_adapter,
//! };
//!
//! fn add_summary_adapter<M: Slots>(model: &mut M) -> Result<TrainableReport> {
//!     let config = LoraConfig {
//!         r: 16,
//!         target_modules: Some(TargetModules::list(["q_proj", "v_proj"])),
//!         ..LoraConfig::default()
//!     };
//!     inject(model, "summary", &config.into(), 0)?;
//!     save_adapter(model, "summary", "out/summary")?;
//!     Ok(report(model))
//! }
//! ```
//!
//! - [`AdapterLinear`], [`AdapterEmbedding`], [`AdapterNorm`]: the places where adapters attach;
//!   [`Slots`]: a model that has them
//! - [`PeftConfig`], [`LoraConfig`]: `adapter_config.json`; [`TargetModules`]: which modules
//! - [`inject`], [`resolve`], [`remove`], [`rename`], [`set_trainable`], [`report`]
//! - [`load_adapter`], [`save_adapter`]: PEFT's folders
//! - [`merge`], [`unmerge`], [`merge_and_unload`]: into the base weights, with the measured error
//! - [`add_weighted_adapter`]: a new adapter from several
//! - [`AdapterPass`], [`AdapterSelection`]: which adapters take part in a forward pass, as data
//!
//! # A new method
//!
//! A method is a folder with its configuration, its modules and what builds them. It joins by a
//! variant of [`PeftConfig`], a variant of [`LinearMethod`], [`EmbeddingMethod`] or
//! [`NormMethod`] for each kind of slot that it adapts, and an arm in `build.rs`.
//!
//! Not here: models, training loops, the choice of an adapter for a request.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "tests fail by panicking"
    )
)]

mod base;
mod build;
mod combine;
mod config;
mod error;
mod files;
mod inject;
mod lora;
mod merge;
mod random;
mod report;
mod selection;
mod slots;
mod svd;
mod table;
mod targets;
mod tensors;

pub use combine::{CombinationType, CombineOptions, MajoritySign, add_weighted_adapter};
pub use config::{CommonConfig, PeftConfig};
pub use error::{Error, Result};
pub use files::{adapter_tensors, load_adapter, read_config, save_adapter};
pub use inject::{inject, remove, rename, resolve, set_trainable};
pub use lora::{
    BiasMode, InitLoraWeights, LoraConfig, LoraEmbedding, LoraLinear, LoraPlusConfig,
    LoraPlusGroup, lora_plus_groups,
};
pub use merge::{MergeOptions, MergeReport, MergedModule, merge, merge_and_unload, unmerge};
pub use report::{ModuleRow, TrainableReport, report};
pub use selection::{AdapterPass, AdapterSelection, DropoutKey};
pub use slots::{
    AdapterEmbedding, AdapterLinear, AdapterNorm, BaseRef, BiasLinear, BiasNorm, EmbeddingMethod,
    LinearMethod, LinearSlot, NamedAdapter, Norm, NormMethod, SavedEmbedding, SavedLinear,
    SavedNorm, Slot, SlotModule, SlotRole, Slots, TiedLinear,
};
pub use table::{AdapterTable, check_name};
pub use targets::{OneOrMany, TargetModules};
