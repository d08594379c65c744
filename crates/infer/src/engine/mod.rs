//! Continuous batching over a paged key/value cache, with an adapter for every row.

mod adapters;
mod draft;
mod handle;
mod inbox;
mod live;
mod options;
mod pages;
mod queue;
mod request;
mod sequence;
mod stats;
mod ticket;
mod worker;

pub(crate) use pages::{Held, Pages};

pub use handle::{Engine, EngineHandle};
pub use options::{EngineOptions, Speculation};
pub use request::{EngineEvent, GenerateRequest, Score, ScoreRequest, Until, Usage};
pub use stats::{AdapterInfo, EngineStats};
pub use ticket::{Pending, Ticket};
