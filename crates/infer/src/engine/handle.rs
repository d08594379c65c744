//! Starting an engine, and what one can ask of it from any thread.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use flametune_lm::CausalLm;

use super::adapters::{Lease, Registry};
use super::inbox::{Bell, Inbox, Submission};
use super::options::EngineOptions;
use super::request::{GenerateRequest, Score, ScoreRequest};
use super::stats::{AdapterInfo, EngineStats};
use super::ticket::{Pending, Ticket, channel};
use super::worker::Worker;
use crate::error::{Error, Result};
use crate::sampler::Sampler;

/// The most continuations of one prompt.
const MAX_CHOICES: usize = 128;

/// Continuous batching: requests come and go while the model takes step after step.
///
/// A thread of its own holds the model; [`EngineHandle`] is how everyone else speaks to it.
#[derive(Debug)]
pub struct Engine;

/// The way to an engine, for any number of threads.
///
/// When the last handle is gone, or after [`shutdown`](Self::shutdown), the engine finishes what it
/// has and ends.
#[derive(Debug, Clone)]
pub struct EngineHandle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    inbox: Arc<Inbox>,
    registry: Arc<Registry>,
    limits: Limits,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What requests are checked against.
#[derive(Debug, Clone, Copy)]
struct Limits {
    vocab_size: usize,
    max_context: usize,
    max_waiting: usize,
}

impl Engine {
    /// Starts the thread that runs `model`.
    ///
    /// # Errors
    /// - [`Error::InvalidParam`] for a limit outside its range, [`Error::DraftVocabulary`] and
    ///   [`Error::UnknownToken`] for a draft that does not fit
    /// - [`Error::Lm`] for a model that predicts no tokens
    /// - [`Error::Thread`] when the system has no thread left
    pub fn start(model: CausalLm, options: EngineOptions) -> Result<EngineHandle> {
        model.check_predicts_tokens()?;
        options.validate(&model)?;
        let pages = options.kv_tokens / options.page_tokens;
        let limits = Limits {
            vocab_size: model.vocab_size(),
            max_context: model
                .max_position_embeddings()
                .min(pages * options.page_tokens),
            max_waiting: options.max_waiting,
        };
        let inbox = Arc::new(Inbox::default());
        let bell = Bell(Arc::clone(&inbox));
        let registry = Arc::new(Registry::new(
            model.clone(),
            options.facts.clone(),
            options.adapter_bytes,
            bell,
        ));
        let worker = Worker::new(
            model,
            options,
            limits.max_context,
            Arc::clone(&inbox),
            Arc::clone(&registry),
        );
        let thread = std::thread::Builder::new()
            .name("flametune-engine".to_owned())
            .spawn(move || worker.run())
            .map_err(|source| Error::Thread { source })?;
        Ok(EngineHandle {
            inner: Arc::new(Inner {
                inbox,
                registry,
                limits,
                thread: Mutex::new(Some(thread)),
            }),
        })
    }
}

impl EngineHandle {
    /// Hands a request in; its answers come through the ticket.
    ///
    /// # Errors
    /// - [`Error::EmptyPrompt`], [`Error::PromptTooLong`], [`Error::PromptTokenOutOfRange`],
    ///   [`Error::InvalidParam`], [`Error::UnknownToken`] for what is asked, as
    ///   [`Generator::generate`](crate::Generator::generate), with request number 0
    /// - [`Error::UnknownAdapter`], [`Error::QueueFull`], [`Error::EngineStopped`]
    pub fn submit(&self, request: GenerateRequest) -> Result<Ticket> {
        if request.n == 0 || request.n > MAX_CHOICES {
            return Err(Error::InvalidParam {
                field: "n",
                expected: "between 1 and 128",
                got: request.n.to_string(),
            });
        }
        self.check_tokens(&request.prompt, 1)?;
        request
            .params
            .validate_vocab(self.inner.limits.vocab_size)?;
        Sampler::new(request.params.clone(), &[], 0)?;
        self.check_queue(request.n)?;
        let lease = self.lease(request.adapter.as_deref())?;
        self.check_room(&request.prompt, 1, lease.as_ref())?;
        let (sender, events) = channel();
        let ticket = Ticket {
            events,
            choices_left: request.n,
            wake: Bell(Arc::clone(&self.inner.inbox)),
        };
        self.hand_in(Submission::Generate {
            request: Box::new(request),
            lease,
            events: Arc::new(sender),
            at: Instant::now(),
        })?;
        Ok(ticket)
    }

    /// Judges a continuation in the same batches that generate.
    ///
    /// # Errors
    /// As [`submit`](Self::submit); an empty continuation is an [`Error::InvalidParam`]. What goes
    /// wrong later comes out of the answer.
    pub fn score(&self, request: ScoreRequest) -> Result<Pending<Score>> {
        if request.continuation.is_empty() {
            return Err(Error::InvalidParam {
                field: "continuation",
                expected: "at least one token",
                got: "none".to_owned(),
            });
        }
        // The last token is judged and not read.
        let room = request.continuation.len() - 1;
        self.check_tokens(&request.context, room)?;
        self.check_tokens(&request.continuation, 0)?;
        self.check_queue(1)?;
        let lease = self.lease(request.adapter.as_deref())?;
        self.check_room(&request.context, room, lease.as_ref())?;
        let (answer, receiver) = channel();
        self.hand_in(Submission::Score {
            request,
            lease,
            answer,
            at: Instant::now(),
        })?;
        Ok(Pending { answer: receiver })
    }

    /// Loads the adapter in `folder` under `name`, on the calling thread while the engine goes on.
    ///
    /// If the name is known, later requests get the new adapter and those that run or wait keep the
    /// old one until they are done.
    ///
    /// # Errors
    /// - [`Error::Peft`] for the name, for what is in the folder, and for a passport of another base
    /// - [`Error::AdapterBudget`] when there is no room for it beside those in use
    pub fn load_adapter(&self, name: &str, folder: impl AsRef<Path>) -> Result<AdapterInfo> {
        self.inner.registry.load(name, folder.as_ref())
    }

    /// Takes an adapter from later requests, and waits until the last request that uses it is done.
    ///
    /// # Errors
    /// [`Error::UnknownAdapter`].
    pub fn unload_adapter(&self, name: &str) -> Result<()> {
        self.inner.registry.unload(name)
    }

    /// Keeps an adapter in memory, or lets it leave again.
    ///
    /// # Errors
    /// [`Error::UnknownAdapter`].
    pub fn pin_adapter(&self, name: &str, pinned: bool) -> Result<()> {
        self.inner.registry.pin(name, pinned)
    }

    /// The adapters, by name.
    #[must_use]
    pub fn adapters(&self) -> Vec<AdapterInfo> {
        self.inner.registry.list()
    }

    /// What the engine is at, as of its latest step.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        let mut stats = self.inner.inbox.stats();
        stats.waiting += self.inner.inbox.unread();
        stats.adapter_bytes = self.inner.registry.bytes();
        stats
    }

    /// The most tokens a request can have, virtual ones, prompt and output together.
    #[must_use]
    pub fn max_context(&self) -> usize {
        self.inner.limits.max_context
    }

    /// The number of token ids that the model knows.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.inner.limits.vocab_size
    }

    /// Takes no more requests, and waits until those that are there are done.
    pub fn shutdown(&self) {
        self.inner.inbox.close();
        // Held until the end, so that everyone who calls this waits.
        let mut thread = self
            .inner
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // An engine that panicked has dropped its requests, which tells their callers.
        if let Some(Err(_)) = thread.take().map(JoinHandle::join) {
            log::error!("the engine's thread panicked");
        }
    }

    fn check_tokens(&self, tokens: &[u32], room: usize) -> Result<()> {
        let limits = self.inner.limits;
        if tokens.is_empty() {
            return Err(Error::EmptyPrompt { request: 0 });
        }
        let len = tokens.len();
        if len.saturating_add(room) > limits.max_context {
            return Err(Error::PromptTooLong {
                request: 0,
                len,
                max_context: limits.max_context,
            });
        }
        let outside = |&id: &u32| id as usize >= limits.vocab_size;
        match tokens.iter().position(outside) {
            None => Ok(()),
            Some(position) => Err(Error::PromptTokenOutOfRange {
                request: 0,
                position,
                id: tokens[position],
                vocab_size: limits.vocab_size,
            }),
        }
    }

    /// Checks the length once more, now with the virtual tokens of the adapter.
    fn check_room(&self, tokens: &[u32], room: usize, lease: Option<&Lease>) -> Result<()> {
        let max_context = self.inner.limits.max_context;
        let len = tokens.len() + lease.map_or(0, Lease::virtual_tokens);
        if len.saturating_add(room) > max_context {
            return Err(Error::PromptTooLong {
                request: 0,
                len,
                max_context,
            });
        }
        Ok(())
    }

    fn check_queue(&self, sequences: usize) -> Result<()> {
        let limit = self.inner.limits.max_waiting;
        let waiting = self.inner.inbox.stats().waiting + self.inner.inbox.unread();
        if waiting.saturating_add(sequences) > limit {
            return Err(Error::QueueFull { waiting, limit });
        }
        Ok(())
    }

    fn lease(&self, adapter: Option<&str>) -> Result<Option<Lease>> {
        adapter
            .map(|name| self.inner.registry.lease(name))
            .transpose()
    }

    fn hand_in(&self, submission: Submission) -> Result<()> {
        self.inner
            .inbox
            .submit(submission)
            .map_err(|_| Error::EngineStopped)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.inbox.close();
    }
}
