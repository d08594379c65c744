//! `AdaLoRA`: low-rank updates in the form of a singular value decomposition, whose ranks are moved to
//! the modules that need them.

mod allocator;
mod build;
mod config;
mod linear;
mod penalty;
mod schedule;

pub use allocator::AdaLoraAllocator;
pub use config::AdaLoraConfig;
pub use linear::AdaLoraLinear;
pub use penalty::orthogonal_penalty;
pub use schedule::BudgetSchedule;

use build::AdaLoraBuilder;
