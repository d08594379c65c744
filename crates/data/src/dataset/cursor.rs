//! The position of a dataset, for saving with a checkpoint.

use serde::{Deserialize, Serialize};

/// Where a dataset stands, between two examples.
///
/// Restored with [`Dataset::restore`](super::Dataset::restore), a dataset of the same options and files goes on with
/// exactly the examples that would have come. A few numbers per source: what is needed of the files is read again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// The epoch, from zero.
    pub epoch: u64,
    /// Number of examples that came in this epoch.
    pub step: u64,
    /// Position of each source.
    pub sources: Vec<SourceCursor>,
    /// Hash of the options and of the names and sizes of the files.
    pub(super) fingerprint: u64,
}

/// Where one source stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceCursor {
    /// How often the source has been gone through.
    pub(super) pass: u64,
    /// How often it had been at the beginning of the epoch.
    pub(super) epoch_pass: u64,
    /// Number of examples that the window that is being read began after, in this pass.
    pub(super) before: u64,
    /// Position, in the order of this pass, of the file that the window begins in.
    pub(super) file: usize,
    /// Number of records of that file that lie before the window.
    pub(super) record: u64,
    /// Number of examples before the window that the limits `skip` and `take` count.
    pub(super) counted: u64,
    /// Number of examples of the window that have been given.
    pub(super) given: usize,
    /// Number of examples of a whole pass, once one is over.
    pub(super) pass_examples: Option<u64>,
    /// Whether the source has given all that it may in this epoch.
    pub(super) done: bool,
}
