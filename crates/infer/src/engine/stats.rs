//! What an engine tells about itself.

use std::path::PathBuf;

/// The state of an engine at one moment, and what it has counted since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineStats {
    /// Sequences that take part in steps now; each choice of a request is one.
    pub running: usize,
    /// Sequences that wait for a place, for memory or for their adapter.
    pub waiting: usize,
    /// Pages of the key/value cache.
    pub kv_pages: usize,
    /// Pages that running sequences hold.
    pub kv_pages_used: usize,
    /// Pages that nobody holds and that are kept for prompts that begin alike.
    pub kv_pages_cached: usize,
    /// Bytes of adapters in memory.
    pub adapter_bytes: usize,
    /// Steps made.
    pub steps: u64,
    /// Tokens of prompts that were read.
    pub prompt_tokens: u64,
    /// Tokens of prompts that did not have to be read because others had begun alike.
    pub cached_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Tokens proposed ahead of the model.
    pub drafted_tokens: u64,
    /// Of those, tokens that the model agreed with.
    pub accepted_tokens: u64,
    /// How often a sequence had to make room for others.
    pub preemptions: u64,
    /// Sequences that came to an end by themselves.
    pub finished: u64,
    /// Sequences whose caller went away.
    pub cancelled: u64,
    /// Sequences that failed, for want of time among others.
    pub failed: u64,
}

impl EngineStats {
    /// The share of the key/value cache that running sequences hold, between 0 and 1.
    #[must_use]
    pub fn kv_usage(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "page counts are far below 2^52")]
        let ratio = |a: usize, b: usize| a as f64 / b.max(1) as f64;
        ratio(self.kv_pages_used, self.kv_pages)
    }
}

/// What is known of an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterInfo {
    /// Its name.
    pub name: String,
    /// Where it was loaded from.
    pub folder: PathBuf,
    /// Counts what was ever loaded, so that a replaced adapter has another number than before.
    pub generation: u64,
    /// Bytes of its parameters.
    pub bytes: usize,
    /// Whether they are in memory now.
    pub resident: bool,
    /// Whether they stay there.
    pub pinned: bool,
    /// Requests that use it now, waiting ones included.
    pub users: usize,
    /// Requests that have used it.
    pub requests: u64,
    /// What its passport says otherwise than the engine's facts.
    pub warnings: Vec<String>,
}
