//! Serves a model that repeats what it is told, to show the interface without weights.
//!
//! ```sh
//! cargo run -p flametune-serve --example echo              # asks itself once, and ends
//! cargo run -p flametune-serve --example echo -- 8000      # until Ctrl-C, with a page to chat on
//! ```
#![allow(clippy::print_stdout, reason = "an example talks to the terminal")]

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::Request;
use flametune_data::{ChatTemplate, Tokenizer};
use flametune_infer::{
    AdapterInfo, EngineEvent, EngineStats, FinishReason, GenerateRequest, Result as InferResult,
    Usage,
};
use flametune_serve::{
    AppState, Backend, BoxFuture, EventStream, Served, ServedModel, app, serve, shutdown_signal,
};
use tower::ServiceExt;

/// A backend whose answer is the prompt.
struct Echo;

impl Backend for Echo {
    fn submit(&self, request: GenerateRequest) -> InferResult<EventStream> {
        let length = request.prompt.len().min(request.params.max_tokens);
        let tokens = request.prompt[..length].to_vec();
        let usage = Usage {
            prompt_tokens: request.prompt.len(),
            completion_tokens: length,
            ..Usage::default()
        };
        let events = (0..request.n).flat_map(move |choice| {
            let tokens = tokens.clone().into_iter();
            let tokens = tokens.map(move |token| EngineEvent::Token {
                choice,
                token,
                logprobs: None,
            });
            tokens.chain([EngineEvent::Finished {
                choice,
                reason: FinishReason::Stopped,
                usage,
            }])
        });
        Ok(Box::pin(futures::stream::iter(events.map(Ok))))
    }

    fn load_adapter(&self, name: String, _: PathBuf) -> BoxFuture<InferResult<AdapterInfo>> {
        self.unknown(name)
    }

    fn unload_adapter(&self, name: String) -> BoxFuture<InferResult<()>> {
        self.unknown(name)
    }

    fn adapters(&self) -> Vec<AdapterInfo> {
        Vec::new()
    }

    fn stats(&self) -> EngineStats {
        EngineStats::default()
    }
}

impl Echo {
    /// It has no adapters.
    fn unknown<T: Send + 'static>(&self, name: String) -> BoxFuture<InferResult<T>> {
        let known = Vec::new();
        let error = flametune_infer::Error::UnknownAdapter { name, known };
        Box::pin(async { Err(error) })
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../fixtures/tokenizers/bytelevel_bpe.json"
    );
    let tokenizer = Tokenizer::from_json(file, &std::fs::read(file)?)?;
    let model = ServedModel::new("echo", Arc::new(Echo), Arc::new(tokenizer), 512)
        .with_template(ChatTemplate::builtin("chatml")?);
    let state = AppState::new(Served::new(model))?;

    if let Some(port) = std::env::args().nth(1) {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port.parse()?)).await?;
        println!("http://{}", listener.local_addr()?);
        serve(listener, state, shutdown_signal()).await?;
        return Ok(());
    }
    // The routes are a value: nothing has to be bound to call them.
    let request = Request::post("/v1/completions")
        .header("content-type", "application/json")
        .body(Body::from(
            r#"{"model": "echo", "prompt": "Hello", "max_tokens": 32}"#,
        ))?;
    let response = app(state).oneshot(request).await?;
    let body = to_bytes(response.into_body(), 1 << 20).await?;
    println!("{}", String::from_utf8(body.to_vec())?);
    Ok(())
}
