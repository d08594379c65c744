//! Language models: Hugging Face and GGUF checkpoints in, hidden states and logits out.
//!
//! Layer 2: stands on `peft`, `quant` and `kernels`; knows token ids and no text.
//!
//! ```no_run
//! use burn::tensor::Device;
//! use flametune_lm::{AdapterPass, CausalLm, Checkpoint, LoadOptions, TokenBatch};
//!
//! let checkpoint = Checkpoint::open("SmolLM2-135M-Instruct")?;
//! let model = CausalLm::load(&checkpoint, &LoadOptions::f32(&Device::flex()), &mut |_| {})?;
//! let batch = TokenBatch::left_padded(&[vec![1, 2, 3], vec![4]], 0)?;
//! let mut cache = model.new_cache(batch.batch(), 64);
//! let base = AdapterPass::default();
//! let hidden = model.forward(&batch, Some(&mut cache), &base)?;
//! let logits = model.logits(hidden, &base); // [batch, seq, vocab]
//! # let _ = logits;
//! # Ok::<(), flametune_lm::Error>(())
//! ```
//!
//! - [`Checkpoint`]: a model on disk; [`TensorSource`]: its tensors, one at a time
//! - [`CausalLm`], [`BertModel`]: models; [`TokenBatch`], [`KvCache`]: what goes in and what stays;
//!   [`PagedKv`], [`PagedRow`]: the same for sequences that come and go
//! - [`ConfigFile`], [`DecoderConfig`]: `config.json` as it stands, and with defaults resolved
//! - [`LoadOptions`], [`QuantizeOptions`]: number formats, and what to quantize on the way
//! - [`AdapterPass`]: which adapters take part in a forward pass; they come from crate `peft`
//! - [`named_tensors`]: the parameters of a module under the names they have on disk
//!
//! Not here: tokenizers and templates (crate `data`), sampling (crate `infer`), optimizers.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "tests fail by panicking"
    )
)]

mod batch;
mod bert;
mod cache;
mod checkpoint;
mod config;
mod decoder;
mod decoder_lm;
mod error;
mod eva;
mod feed_forward;
mod gpt2;
mod linears;
mod loss;
mod merge;
mod model;
mod names;
mod options;
mod paged;
mod passport;
mod qera;
mod rope;
mod slots;
mod virtual_tokens;
mod weights;

pub use batch::{PADDING, TokenBatch};
pub use bert::{
    Bert, BertAttention, BertConfig, BertDense, BertEmbeddings, BertEncoder, BertLayer, BertModel,
    BertOutput, BertPooler, BertSelfAttention, MaskedLmHead, Predictions,
};
pub use cache::KvCache;
pub use checkpoint::{
    GgufCheckpoint, GgufNames, GgufPart, GgufPlan, GgufSource, HeaderError, IndexError, RowOrder,
    SafetensorsCheckpoint, SavedCheckpoint, StoredWeight, TensorInfo, TensorSource, TensorSpec,
    save_safetensors, stored_weights,
};
pub use config::{
    Activation, BlockStyle, ConfigFile, DecoderConfig, Family, LayerConfig, MoeConfig, QkNorm,
    RopeConfig, RopeScaling,
};
pub use decoder::{
    Attention, Decoder, DecoderLayer, FusedProjections, LayerMemory, PagedStep, Projections,
    SeparateProjections, StepContext, Tap,
};
pub use decoder_lm::DecoderLm;
pub use error::{Error, Result};
pub use eva::EvaBatch;
pub use feed_forward::{
    Expert, Experts, FeedForward, FusedGated, FusedGatedMlp, Gated, GatedMlp, SparseMoe,
};
pub use gpt2::{Gpt2, Gpt2Attention, Gpt2Block, Gpt2Config, Gpt2Lm, Gpt2Mlp};
pub use model::{CausalLm, Checkpoint};
pub use names::{NamedTensor, named_tensors};
pub use options::{LoadOptions, QuantizeOptions};
pub use paged::{PagedKv, PagedRow, RowInput, VirtualSlots};
pub use passport::base_digest;
pub use rope::{RopeTable, inverse_frequencies};
pub use weights::LoadProgress;

pub use flametune_peft::{AdapterPass, AdapterSelection};
