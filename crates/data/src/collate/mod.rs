//! Batches: rows of equal length, in an order that depends on a seed alone.

mod batch;
mod collator;
mod order;
mod sampler;

pub use batch::{Batch, ClassifiedBatch, Step};
pub use collator::Collator;
pub use order::permutation;
pub use sampler::{BatchSampler, BatchSize, SamplerCursor, SamplerOptions};
