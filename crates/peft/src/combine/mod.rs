//! Arithmetic with adapters: new ones from several old ones.

mod ia3;
mod options;
mod prune;
mod task;
mod weighted;

pub use options::{CombinationType, CombineOptions, MajoritySign};
pub use task::{add_adapters, analogous_adapter, negate_adapter};
pub use weighted::add_weighted_adapter;
