//! Arithmetic with adapters: new ones from several old ones.

mod ia3;
mod options;
mod prune;
mod weighted;

pub use options::{CombinationType, CombineOptions, MajoritySign};
pub use weighted::add_weighted_adapter;
