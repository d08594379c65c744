//! Packing: several examples in one row, so that less of a batch is padding.

mod best_fit;
mod row;
mod statistics;
mod window;
mod wrapped;

pub use best_fit::{best_fit_decreasing, pack};
pub use row::Row;
pub use statistics::PackStatistics;
pub use window::{PackCursor, PackedWindows};
pub use wrapped::{WrapCursor, Wrapped};
