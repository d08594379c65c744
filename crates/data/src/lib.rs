//! Text in, batches of token ids out: datasets, tokenizers, chat templates, labels, packing and collating.
//!
//! Layer 1. This crate knows no model: it turns text and conversations into token ids and back, the way the
//! Hugging Face stack does, so that a model sees the same ids in training, evaluation and serving.
//!
//! - [`Dataset`]: [`Example`]s from files of many kinds ([`FileKind`]) and formats ([`Format`]), mixed, divided, shuffled
//!   and resumed exactly ([`Cursor`]); [`curate`] finds duplicates and evaluation items.
//! - [`Tokenizer`]: from a `tokenizer.json`, from a model folder, or from the vocabulary of a GGUF header
//!   ([`GgufVocab`]); encoding, decoding, streaming decoding ([`TextStream`]), special tokens.
//! - [`Message`], [`Content`]: one turn of a conversation in the OpenAI shape, unknown keys kept.
//! - [`ChatTemplate`]: a Hugging Face chat template rendered with minijinja, or one of the built-in ones;
//!   the text, the byte ranges that the assistant wrote, and the token-level mask for training.
//! - [`Encoder`]: an [`Example`] as ids and labels, with the tokens that are trained chosen by [`TrainOn`].
//! - [`pack()`], [`PackedWindows`], [`Wrapped`]: several examples in one [`Row`] that do not see each other.
//! - [`BatchSampler`] and [`Collator`]: which rows make which [`Batch`], in an order that a seed decides.
//! - [`check()`]: what a dataset would train, as a report.
//!
//! # Examples
//! ```
//! use flametune_data::{ChatInput, ChatTemplate, Message};
//!
//! # fn main() -> flametune_data::Result<()> {
//! let messages = [Message::user("2 + 2?"), Message::assistant("4")];
//! let template = ChatTemplate::builtin("chatml")?;
//! let chat = template.render_with_spans(&ChatInput::new(&messages))?;
//! assert_eq!(chat.text, "<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n");
//! assert_eq!(&chat.text[chat.assistant_spans[0].clone()], "4<|im_end|>");
//! # Ok(())
//! # }
//! ```
//!
//! Not here: weights and architectures (`flametune-lm`), parsing GGUF files (`flametune-quant`), sampling.
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "tests fail by panicking"
    )
)]

mod chat;
mod check;
mod collate;
mod content;
mod curation;
mod dataset;
mod encode;
mod error;
mod example;
mod formats;
mod message;
mod names;
mod pack;
mod random;
mod readers;
mod tokenizer;

pub use chat::{
    BUILTIN_TEMPLATES, ChatInput, ChatTemplate, CivilTime, EncodedChat, MAX_TEMPLATE_BYTES,
    RenderedChat, RewrittenTemplate, rewrite_generation_tags,
};
pub use check::{
    CheckOptions, CheckReport, Checker, LengthHistogram, Preview, PreviewRun, RecordError, check,
};
pub use collate::{
    Batch, BatchSampler, BatchSize, ClassifiedBatch, Collator, SamplerCursor, SamplerOptions, Step,
    permutation,
};
pub use curation::{
    Augmentation, AugmentationOptions, Contamination, ContaminationOptions, Curation,
    CurationOptions, ExactDuplicates, Finding, NearDuplicateOptions, NearDuplicates, NearMatch,
    Overlap, QualityIssue, QualityOptions, Reason, Rewording, bands_for, candidate_probability,
    curate,
};
pub use dataset::{
    Cursor, Dataset, DatasetOptions, Exclusions, OnInvalid, Repeats, Sample, SampleId, Side,
    SourceCursor, SourceOptions, SourceStats, Split, SplitBy,
};
pub use encode::{
    EncodeOptions, EncodedExample, EncodedJudged, EncodedPair, EncodedRecord, EncodedSteps,
    EncodedText, Encoder, IGNORE_INDEX, KeepPrompt, Note, Outcome, Strictness, TrainOn, Truncation,
};
pub use error::{Error, Result};
pub use example::Example;
pub use formats::{AlpacaForm, ConvertOptions, Detected, Format, TreePaths, detect_format};
pub use message::{Content, Message, parse_messages};
pub use pack::{
    PackCursor, PackStatistics, PackedWindows, Row, WrapCursor, Wrapped, best_fit_decreasing, pack,
};
pub use readers::{
    FileKind, Location, ReadOptions, Record, Records, TextUnit, find_files, hub_path, open_records,
};
pub use tokenizer::{
    BosEos, Encoded, GgufVocab, SpecialToken, SpecialTokens, TextStream, Tokenizer,
};
