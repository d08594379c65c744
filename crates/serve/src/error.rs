//! What keeps a server from starting.

use std::path::PathBuf;

/// Why a server cannot start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option outside its range.
    #[error("{field} must be {expected}, got {got}")]
    InvalidOption {
        /// The option, with its section.
        field: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        got: String,
    },
    /// Two keys with the same name, or two names for the same key.
    #[error("keys: {what} stands there twice")]
    DuplicateKey {
        /// Which of them; never the key itself.
        what: String,
    },
    /// The folder of adapters cannot be used.
    #[error("adapters.root {}: {source}", path.display())]
    AdapterRoot {
        /// The folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The chat template cannot be used.
    #[error(transparent)]
    Template(#[from] flametune_data::Error),
    /// The listener failed.
    #[error("cannot serve: {0}")]
    Io(#[from] std::io::Error),
    /// The metrics cannot be set up.
    #[error("metrics: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
}
