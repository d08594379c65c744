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
//! - [`PeftConfig`]: `adapter_config.json`; [`TargetModules`]: which modules
//! - [`LoraConfig`], [`AdaLoraConfig`], [`VeraConfig`], [`LoHaConfig`], [`LoKrConfig`],
//!   [`MissConfig`], [`HiraConfig`], [`Ia3Config`], [`LnTuningConfig`], [`TrainableTokensConfig`]:
//!   the methods; [`AdaLoraAllocator`]: the ranks of AdaLoRA during training
//! - [`inject`], [`resolve`], [`remove`], [`rename`], [`set_trainable`], [`report`]
//! - [`EvaInit`]: LoRA that begins at the activations of real batches
//! - [`QeraInit`]: LoRA that begins at what quantizing the base loses of the layers' outputs
//! - [`load_adapter`], [`save_adapter`], [`resume_adapter`]: PEFT's folders, and training that goes on;
//!   [`AdapterParts`]: an adapter outside of a model
//! - [`merge`], [`unmerge`], [`merge_and_unload`], [`merge_and_unload_measured`]: into the base weights,
//!   with the measured error
//! - [`add_weighted_adapter`], [`add_adapters`], [`negate_adapter`], [`analogous_adapter`]: a new adapter
//!   from several
//! - [`AdapterPass`], [`AdapterSelection`]: which adapters take part in a forward pass, as data
//!
//! # A new method
//!
//! A method is a folder with its configuration (`MethodConfig`), its modules and what builds them
//! (`Build`). It joins by a line in the list of `config.rs` and a variant of [`LinearMethod`],
//! [`EmbeddingMethod`] or [`NormMethod`] for each kind of slot that it adapts.
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

mod adalora;
mod base;
mod bias;
mod bottleneck;
mod build;
mod check;
mod combine;
mod config;
mod error;
mod files;
mod hira;
mod ia3;
mod inject;
mod ln_tuning;
mod loha;
mod lokr;
mod lora;
mod lycoris;
mod merge;
mod miss;
mod parts;
mod passport;
mod prompt;
mod random;
mod report;
mod selection;
mod slots;
mod svd;
mod table;
mod targets;
mod tensors;
mod trainable_tokens;
mod vera;

pub use adalora::{
    AdaLoraAllocator, AdaLoraConfig, AdaLoraLinear, BudgetSchedule, orthogonal_penalty,
};
pub use bias::BiasMode;
pub use bottleneck::{
    AdapterSublayer, BottleneckAdapter, BottleneckConfig, NonLinearity, Sublayer, SublayerSlot,
};
pub use combine::{
    CombinationType, CombineOptions, MajoritySign, add_adapters, add_weighted_adapter,
    analogous_adapter, negate_adapter,
};
pub use config::{CommonConfig, PeftConfig};
pub use error::{Error, Result};
pub use files::{
    adapter_tensors, convert_adapter, load_adapter, read_config, resume_adapter, save_adapter,
};
pub use hira::{HiraConfig, HiraLinear, InitHiraWeights};
pub use ia3::{Ia3Config, Ia3Linear};
pub use inject::{inject, remove, rename, resolve, set_trainable};
pub use ln_tuning::{LnTuningConfig, LnTuningNorm};
pub use loha::{LoHaConfig, LoHaLinear};
pub use lokr::{InitLokrWeights, LoKrConfig, LoKrLinear};
pub use lora::{
    EvaConfig, EvaInit, InitLoraWeights, InputObserver, LoftqConfig, LoraConfig, LoraEmbedding,
    LoraLinear, LoraPlusConfig, LoraPlusGroup, QeraInit, QeraReport, lora_plus_groups,
};
pub use lycoris::LycorisConfig;
pub use merge::{
    MergeOptions, MergeReport, MergedModule, merge, merge_and_unload, merge_and_unload_measured,
    unmerge,
};
pub use miss::{InitMissWeights, MissBlock, MissConfig, MissLinear};
pub use parts::AdapterParts;
pub use passport::{
    BaseDigest, Facts, PASSPORT_FILE, Passport, PassportWarning, Probe, sha256_hex,
};
pub use prompt::{
    AdapterPrompt, PrefixInit, PrefixKeysValues, PrefixTuningConfig, PromptEncoder,
    PromptEncoderConfig, PromptEncoderReparameterizationType, PromptMethod, PromptPlace,
    PromptShape, PromptSlot, PromptTuningConfig, PromptTuningInit, VirtualTokenConfig,
    VirtualTokens,
};
pub use report::{ModuleRow, TrainableReport, report};
pub use selection::{AdapterPass, AdapterSelection, DropoutKey};
pub use slots::{
    AdapterEmbedding, AdapterLinear, AdapterNorm, BaseRef, BiasLinear, BiasNorm, EmbeddingMethod,
    LinearMethod, LinearSlot, NamedAdapter, Norm, NormMethod, SavedEmbedding, SavedLinear,
    SavedNorm, Slot, SlotModule, SlotRole, Slots, TiedLinear,
};
pub use table::{AdapterTable, check_name};
pub use targets::{OneOrMany, TargetModules};
pub use trainable_tokens::{TokenIndices, TrainableTokens, TrainableTokensConfig};
pub use vera::{VeraConfig, VeraLinear};
