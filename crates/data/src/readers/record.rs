//! One row of a file, and where it stands.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

/// Where a record stands: its file, and its number in it.
///
/// Written as `train.jsonl:12`, as `train.json:12 (record 3)` where a record is not a line, and as
/// `train.parquet, row 12` where the file has no lines. All numbers count from one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The file.
    pub file: Arc<Path>,
    /// Number of the record in the file, from one; blank lines are no records.
    pub record: u64,
    /// The line on which the record begins, from one, where the file has lines.
    pub line: Option<u64>,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        match self.line {
            Some(line) if line == self.record => write!(f, "{file}:{line}"),
            Some(line) => write!(f, "{file}:{line} (record {})", self.record),
            None => write!(f, "{file}, row {}", self.record),
        }
    }
}

/// One row of a file, before any format is applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The columns, in the order of the file.
    pub row: Map<String, Value>,
    /// Where the row stands.
    pub at: Location,
    /// Columns that hold neither text, numbers nor lists of them.
    pub(crate) left_out: Arc<[LeftOut]>,
}

/// A column that was not read, because its type cannot hold text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeftOut {
    /// Name of the column.
    pub(crate) column: String,
    /// Its type, as the file format calls it.
    pub(crate) kind: String,
}

impl Record {
    pub(super) fn new(row: Map<String, Value>, at: Location) -> Self {
        Self {
            row,
            at,
            left_out: Arc::new([]),
        }
    }

    /// The error that this record is not what was expected.
    pub(crate) fn invalid(
        &self,
        expected: impl Into<String>,
        got: impl Into<String>,
    ) -> crate::Error {
        crate::Error::InvalidRecord {
            at: self.at.clone(),
            expected: expected.into(),
            got: got.into(),
        }
    }
}
