//! What a dataset would train, before it trains anything.

mod checker;
mod histogram;
mod preview;
mod report;

pub use checker::{CheckOptions, Checker, check};
pub use histogram::LengthHistogram;
pub use preview::{Preview, PreviewRun};
pub use report::{CheckReport, RecordError};
