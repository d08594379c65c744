//! What all requests share.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use flametune_data::{ChatTemplate, CivilTime, Tokenizer};

use crate::auth::Keys;
use crate::backend::{Backend, Embedder, GuideMaker};
use crate::error::Error;
use crate::limits::Limiter;
use crate::metrics::Metrics;
use crate::options::{AdapterOptions, HttpOptions, KeyOptions, LimitOptions};
use crate::trace::Tracing;

/// A model that generates, and the text side of it.
pub struct ServedModel {
    pub(crate) name: String,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) template: Option<ChatTemplate>,
    /// Most tokens of prompt and answer together.
    pub(crate) context: usize,
    pub(crate) guides: Option<GuideMaker>,
}

impl ServedModel {
    /// A model under the name that requests pick it by, with no chat template and no guided output.
    pub fn new(
        name: impl Into<String>,
        backend: Arc<dyn Backend>,
        tokenizer: Arc<Tokenizer>,
        context: usize,
    ) -> Self {
        Self {
            name: name.into(),
            backend,
            tokenizer,
            template: None,
            context,
            guides: None,
        }
    }

    /// Renders conversations with this template.
    #[must_use]
    pub fn with_template(mut self, template: ChatTemplate) -> Self {
        self.template = Some(template);
        self
    }

    /// Makes constraints for `response_format` and its kin.
    #[must_use]
    pub fn with_guides(mut self, guides: GuideMaker) -> Self {
        self.guides = Some(guides);
        self
    }
}

/// An encoder, and the text side of it.
pub(crate) struct ServedEncoder {
    pub(crate) name: String,
    pub(crate) embedder: Arc<dyn Embedder>,
    pub(crate) tokenizer: Arc<Tokenizer>,
}

/// Everything that a server is told.
pub struct Served {
    model: ServedModel,
    encoder: Option<ServedEncoder>,
    http: HttpOptions,
    limits: LimitOptions,
    adapters: AdapterOptions,
    keys: Vec<KeyOptions>,
    tracing: Tracing,
}

impl Served {
    /// A model with the usual options and no keys.
    #[must_use]
    pub fn new(model: ServedModel) -> Self {
        Self {
            model,
            encoder: None,
            http: HttpOptions::default(),
            limits: LimitOptions::default(),
            adapters: AdapterOptions::default(),
            keys: Vec::new(),
            tracing: Tracing::default(),
        }
    }

    /// Answers `/v1/embeddings` with an encoder.
    #[must_use]
    pub fn with_encoder(
        mut self,
        name: impl Into<String>,
        embedder: Arc<dyn Embedder>,
        tokenizer: Arc<Tokenizer>,
    ) -> Self {
        self.encoder = Some(ServedEncoder {
            name: name.into(),
            embedder,
            tokenizer,
        });
        self
    }

    /// Sets how connections are treated.
    #[must_use]
    pub fn with_http(mut self, http: HttpOptions) -> Self {
        self.http = http;
        self
    }

    /// Sets how much may be asked for.
    #[must_use]
    pub fn with_limits(mut self, limits: LimitOptions) -> Self {
        self.limits = limits;
        self
    }

    /// Sets where adapters may come from.
    #[must_use]
    pub fn with_adapters(mut self, adapters: AdapterOptions) -> Self {
        self.adapters = adapters;
        self
    }

    /// Makes spans of every request with this tracer.
    #[cfg(feature = "otel")]
    #[must_use]
    pub fn with_tracer(mut self, tracer: opentelemetry_sdk::trace::SdkTracer) -> Self {
        self.tracing = Tracing(Some(tracer));
        self
    }

    /// Asks for one of these keys.
    #[must_use]
    pub fn with_keys(mut self, keys: Vec<KeyOptions>) -> Self {
        self.keys = keys;
        self
    }
}

/// What all requests share; clones are the same state.
#[derive(Clone)]
pub struct AppState {
    pub(crate) model: Arc<ServedModel>,
    pub(crate) encoder: Option<Arc<ServedEncoder>>,
    pub(crate) http: Arc<HttpOptions>,
    pub(crate) limits: Arc<LimitOptions>,
    /// The folder of adapters, with its links resolved.
    pub(crate) adapter_root: Option<Arc<PathBuf>>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) limiter: Limiter,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) tracing: Tracing,
    /// When the server began, in seconds since 1970.
    pub(crate) started: u64,
    ready: Arc<AtomicBool>,
    counter: Arc<AtomicU64>,
}

impl AppState {
    /// Checks the options and makes ready to answer.
    ///
    /// # Errors
    /// [`Error::InvalidOption`], [`Error::DuplicateKey`], [`Error::AdapterRoot`],
    /// [`Error::Metrics`]
    pub fn new(served: Served) -> Result<Self, Error> {
        let Served {
            model,
            encoder,
            http,
            limits,
            adapters,
            keys,
            tracing,
        } = served;
        http.validate()?;
        limits.validate()?;
        let adapter_root = adapters
            .root
            .map(|path| match path.canonicalize() {
                Ok(resolved) => Ok(resolved),
                Err(source) => Err(Error::AdapterRoot { path, source }),
            })
            .transpose()?;
        let limiter = Limiter::new(&keys, limits.anonymous, limits.adapter);
        let metrics = Metrics::new(limits.metric_models)?;
        Ok(Self {
            model: Arc::new(model),
            encoder: encoder.map(Arc::new),
            http: Arc::new(http),
            limits: Arc::new(limits),
            adapter_root: adapter_root.map(Arc::new),
            keys: Arc::new(Keys::new(keys)?),
            limiter,
            metrics: Arc::new(metrics),
            tracing,
            started: unix_seconds(),
            ready: Arc::new(AtomicBool::new(true)),
            counter: Arc::default(),
        })
    }

    /// Whether `/ready` says yes.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Sets what `/ready` says: no while adapters are loaded at the start, and at the end.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    /// The options of connections.
    #[must_use]
    pub fn http(&self) -> &HttpOptions {
        &self.http
    }

    /// A name that no other request of this process has.
    pub(crate) fn next_id(&self) -> String {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        format!("{:08x}{number:08x}", self.started & 0xffff_ffff)
    }

    /// A seed for a request that brings none.
    pub(crate) fn next_seed(&self) -> u64 {
        // The increment of SplitMix64: consecutive numbers far apart.
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        (self.started ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

impl fmt::Debug for ServedModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServedModel")
            .field("name", &self.name)
            .field("context", &self.context)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served")
            .field("model", &self.model)
            .field(
                "encoder",
                &self.encoder.as_ref().map(|encoder| &encoder.name),
            )
            .field("http", &self.http)
            .field("limits", &self.limits)
            .field("adapters", &self.adapters)
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for AppState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppState")
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}

/// Seconds since 1970.
#[expect(
    clippy::disallowed_methods,
    reason = "answers carry their date, and templates are told the time"
)]
pub(crate) fn unix_seconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// The time that templates are told.
pub(crate) fn civil_time() -> Option<CivilTime> {
    Some(CivilTime::from_unix(i64::try_from(unix_seconds()).ok()?))
}
