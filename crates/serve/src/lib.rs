//! One base model and many adapters behind the HTTP interface of OpenAI.
//!
//! Layer 4: stands on `infer`, which generates, and on `data`, which turns text into tokens and
//! back. It is the only crate that opens a listening socket.
//!
//! - [`app`]: all routes over an [`AppState`], as a value that tests call without a socket
//! - [`serve`]: the routes on a listener, until a signal ends them gracefully
//! - [`ServedModel`], [`Backend`], [`Embedder`]: what is served, handed over by whoever loaded it
//! - [`HttpOptions`], [`LimitOptions`], [`AdapterOptions`], [`KeyOptions`]: how it is served
//!
//! | route | what it does |
//! |---|---|
//! | `POST /v1/chat/completions`, `/v1/completions` | generate, whole or as server-sent events |
//! | `GET /v1/models`, `/v1/models/{id}` | the base and its adapters; `model` of a request picks one |
//! | `POST /v1/embeddings` | vectors of texts, where an encoder is served |
//! | `POST /tokenize` | token ids of a text or a conversation |
//! | `POST /v1/load_lora_adapter`, `/v1/unload_lora_adapter` | adapters in and out, as in vLLM |
//! | `GET /health`, `/ready`, `/metrics` | for those who look after it |
//! | `GET /`, `/docs`, `/openapi.json` | for people: a page to chat on, the interface described |
//!
//! # Examples
//! ```no_run
//! use std::sync::Arc;
//!
//! use flametune_data::Tokenizer;
//! use flametune_infer::EngineHandle;
//! use flametune_serve::{AppState, Served, ServedModel, app};
//!
//! fn routes(engine: EngineHandle, tokenizer: Tokenizer) -> Result<axum::Router, flametune_serve::Error> {
//!     let context = engine.max_context();
//!     let model = ServedModel::new("smollm2", Arc::new(engine), Arc::new(tokenizer), context);
//!     Ok(app(AppState::new(Served::new(model))?))
//! }
//! ```
//!
//! With feature `otel`, `Served::with_tracer` makes spans of every request for OpenTelemetry.
//!
//! Not here: loading models and adapters' weights, sampling, files other than adapters' folders.
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "tests fail by panicking"
    )
)]

mod answer;
mod api;
mod app;
mod auth;
mod backend;
mod error;
mod extract;
mod folders;
mod limits;
mod listener;
mod logprobs;
mod metrics;
mod observe;
mod openapi;
mod options;
mod page;
mod prompt;
mod routes;
mod sampling;
mod server;
mod sse;
mod state;
mod trace;

pub use app::app;
pub use backend::{Backend, BoxFuture, Embedder, EventStream, GuideMaker, OutputFormat};
pub use error::Error;
pub use openapi::openapi;
pub use options::{AdapterOptions, HttpOptions, KeyOptions, LimitOptions, Rate};
pub use server::{serve, shutdown_signal};
pub use state::{AppState, Served, ServedModel};
