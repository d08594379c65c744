//! Generation: KV-cached decoding and sampling of token ids.
//!
//! Layer 3: stands on `flametune-lm`. Token ids in, token ids out.
//!
//! - [`Engine`] serves requests as they come, each with an adapter of its own if it wants one.
//! - [`Generator`] continues a batch of [`Request`]s with a language model and streams [`Event`]s.
//! - [`Sampler`] chooses the tokens of one request as its [`SamplingParams`] say.
//! - [`processors`] holds the single steps: temperature, top-k, top-p, penalties, …
//! - [`Guide`] restricts the tokens that may come, for example to those of a JSON schema.
//! - [`Scorer`] tells how likely a model finds continuations, and [`SteadyGenerator`] continues many
//!   prompts, both with the same numbers in any company.
//! - [`Embedder`] turns texts into vectors with an encoder.
//! - [`StopStrings`] finds stop strings in text that arrives piece by piece.
//!
//! # Examples
//! ```
//! use flametune_infer::{Sampler, SamplingParams};
//!
//! let params = SamplingParams { temperature: 0.8, top_p: 0.95, seed: 1, ..SamplingParams::default() };
//! let draw = || -> flametune_infer::Result<Vec<u32>> {
//!     let mut sampler = Sampler::new(params.clone(), &[3, 1, 4], 0)?;
//!     (0..5).map(|_| sampler.choose(&mut [0.1, 0.9, 0.5, 0.7, 0.2])).collect()
//! };
//! assert_eq!(draw()?, draw()?);
//! # Ok::<(), flametune_infer::Error>(())
//! ```
//!
//! Feature `guided` adds `GuideFactory`: output after JSON schemas, regular expressions, grammars and
//! lists of choices, through llguidance.
//!
//! Not here: tokenizers and chat templates, HTTP, training.
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "tests fail by panicking"
    )
)]

mod company;
mod draw;
mod embedder;
mod engine;
mod error;
mod generate;
mod guide;
#[cfg(feature = "guided")]
mod guided;
mod history;
mod logprobs;
mod params;
pub mod processors;
mod sampler;
mod scorer;
mod stop_strings;

pub use draw::{argmax, inverse_cdf, uniform};
pub use embedder::{Embedder, Pooling};
pub use engine::{
    AdapterInfo, Engine, EngineEvent, EngineHandle, EngineOptions, EngineStats, GenerateRequest,
    Pending, Score, ScoreRequest, Speculation, Ticket, Until, Usage,
};
pub use error::{Error, Result};
pub use generate::{Control, Event, FinishReason, Generator, Output, Request, SteadyGenerator};
pub use guide::{Constraint, Guide};
#[cfg(feature = "guided")]
pub use guided::{GuideFactory, TokenText};
pub use history::History;
pub use logprobs::TokenLogprobs;
pub use params::{Cutoffs, SamplingParams, TokenRules};
pub use sampler::Sampler;
pub use scorer::Scorer;
pub use stop_strings::{Scan, StopStrings};
