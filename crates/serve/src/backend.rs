//! What answers requests, seen from the routes.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use flametune_infer::{
    AdapterInfo, Embedder as Encoder, EngineEvent, EngineHandle, EngineStats, Error,
    GenerateRequest, Guide, Result,
};
use futures::Stream;
use serde_json::Value;

/// What happens to a request; dropping it cancels the request.
pub type EventStream = Pin<Box<dyn Stream<Item = Result<EngineEvent>> + Send>>;

/// A future without a name.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What generates: an [`EngineHandle`], or a script in its place.
pub trait Backend: Send + Sync + 'static {
    /// Hands a request in.
    ///
    /// # Errors
    /// As [`EngineHandle::submit`].
    fn submit(&self, request: GenerateRequest) -> Result<EventStream>;

    /// Loads the adapter in `folder` under `name`, or replaces the one of that name.
    fn load_adapter(&self, name: String, folder: PathBuf) -> BoxFuture<Result<AdapterInfo>>;

    /// Takes an adapter away once its last user is done.
    fn unload_adapter(&self, name: String) -> BoxFuture<Result<()>>;

    /// The adapters, by name.
    fn adapters(&self) -> Vec<AdapterInfo>;

    /// What the backend is at.
    fn stats(&self) -> EngineStats;
}

impl Backend for EngineHandle {
    fn submit(&self, request: GenerateRequest) -> Result<EventStream> {
        let ticket = Self::submit(self, request)?;
        Ok(Box::pin(futures::stream::unfold(
            ticket,
            |mut ticket| async {
                let event = ticket.next().await?;
                Some((event, ticket))
            },
        )))
    }

    fn load_adapter(&self, name: String, folder: PathBuf) -> BoxFuture<Result<AdapterInfo>> {
        let engine = self.clone();
        blocking(move || Self::load_adapter(&engine, &name, &folder))
    }

    fn unload_adapter(&self, name: String) -> BoxFuture<Result<()>> {
        let engine = self.clone();
        blocking(move || Self::unload_adapter(&engine, &name))
    }

    fn adapters(&self) -> Vec<AdapterInfo> {
        Self::adapters(self)
    }

    fn stats(&self) -> EngineStats {
        Self::stats(self)
    }
}

/// Runs what blocks on a thread that may.
fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> BoxFuture<Result<T>> {
    Box::pin(async {
        let done = tokio::task::spawn_blocking(work).await;
        done.unwrap_or(Err(Error::EngineStopped))
    })
}

/// What turns token ids into vectors.
pub trait Embedder: Send + Sync + 'static {
    /// One vector for each row of ids.
    ///
    /// # Errors
    /// What went wrong, in words for the log.
    fn embed(&self, rows: &[Vec<u32>]) -> std::result::Result<Vec<Vec<f32>>, String>;

    /// The most tokens of a row.
    fn max_tokens(&self) -> usize;
}

impl Embedder for Encoder {
    fn embed(&self, rows: &[Vec<u32>]) -> std::result::Result<Vec<Vec<f32>>, String> {
        Self::embed(self, rows).map_err(|error| error.to_string())
    }

    fn max_tokens(&self) -> usize {
        Self::max_tokens(self)
    }
}

/// What an output has to follow.
#[derive(Debug, Clone, PartialEq)]
pub enum OutputFormat {
    /// Any JSON object.
    JsonObject,
    /// JSON that a schema describes.
    JsonSchema(Value),
    /// Text that a regular expression matches.
    Regex(String),
    /// Text that a Lark grammar derives.
    Grammar(String),
    /// One of these texts.
    Choice(Vec<String>),
}

/// Makes constraints of formats; an error says what is wrong with a schema, an expression or a
/// grammar.
pub type GuideMaker =
    Arc<dyn Fn(&OutputFormat) -> std::result::Result<Guide, String> + Send + Sync>;
