//! What can go wrong in training.

use std::path::PathBuf;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting that cannot be.
    #[error("{field} {reason}")]
    InvalidConfig {
        /// The setting.
        field: &'static str,
        /// What it must be, and what it is.
        reason: String,
    },
    /// No parameter of the model requires a gradient, or no token is supervised.
    #[error("nothing is trained: no parameter requires a gradient, or no token has a label")]
    NothingToTrain,
    /// A loss or gradient that is no number.
    #[error("the {what} of step {step} is {value}; parameters are those of step {}", step - 1)]
    NotFinite {
        /// The loss or the gradient norm.
        what: &'static str,
        /// The step, from 1.
        step: usize,
        /// What it is.
        value: f64,
    },
    /// A loss or gradient that is no number, and the records that it is of.
    #[error(
        "the {what} of step {step} is {value}; its batch holds {records}; parameters are those of \
         step {}",
        step - 1
    )]
    NotFiniteBatch {
        /// The loss or the gradient norm.
        what: &'static str,
        /// The step, from 1.
        step: usize,
        /// What it is.
        value: f64,
        /// The records.
        records: String,
    },
    /// A record that supervised fine-tuning has no use for.
    #[error(
        "{record}: supervised fine-tuning learns from conversations, completions and texts, not \
         from answers that are compared or judged, or texts with classes"
    )]
    NotTrainable {
        /// Where it stands.
        record: String,
    },
    /// A record that a classifier has no use for.
    #[error("{record}: a classifier learns from texts with classes (keys \"text\" and \"label\")")]
    NotClassified {
        /// Where it stands.
        record: String,
    },
    /// A class that the classifier does not have.
    #[error("{record}: class {class} of {classes}; classes count from 0")]
    ClassOutOfRange {
        /// Where it stands.
        record: String,
        /// The class.
        class: usize,
        /// The number of classes.
        classes: usize,
    },
    /// Optimizer averages that are not those of a model's parameters.
    #[error("{}: averages of {parameter}: expected {expected}, got {got}", path.display())]
    OptimizerState {
        /// The file.
        path: PathBuf,
        /// The parameter's path in the module tree.
        parameter: String,
        /// What the parameter has.
        expected: String,
        /// What the file has.
        got: String,
    },
    /// Of something that a run called upon, such as generation.
    #[error("{what}: {source}")]
    Hook {
        /// What it was.
        what: &'static str,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A checkpoint that does not fit.
    #[error("{}: {reason}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What it should hold, and what it does.
        reason: String,
    },
    /// A line of a run's log that is no event.
    #[error("{}, line {line}: {reason}", path.display())]
    RecordLine {
        /// The log.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A report that could not be made.
    #[error("report: {0}")]
    Report(#[source] askama::Error),
    /// A store of runs that could not be read or written.
    #[error("{}: {source}", path.display())]
    Store {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// A store of runs that another version of this program made.
    #[error("{}: schema {got}, this version reads {expected}", path.display())]
    StoreVersion {
        /// The file.
        path: PathBuf,
        /// The schema that is read.
        expected: i64,
        /// The schema it has.
        got: i64,
    },
    /// A run that the store does not have.
    #[error("no run {name}; {}", known_runs(known))]
    UnknownRun {
        /// What was asked for.
        name: String,
        /// The latest runs there are.
        known: Vec<String>,
    },
    /// No settings fit into memory.
    #[error("the smallest settings need {requested_bytes} bytes, {available_bytes} are available")]
    OutOfBudget {
        /// What is needed at least.
        requested_bytes: u64,
        /// What there is.
        available_bytes: u64,
    },
    /// Of the data.
    #[error(transparent)]
    Data(#[from] flametune_data::Error),
    /// Of the model.
    #[error(transparent)]
    Lm(#[from] flametune_lm::Error),
    /// Of the adapters.
    #[error(transparent)]
    Peft(#[from] flametune_peft::Error),
    /// A file that could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

fn known_runs(known: &[String]) -> String {
    if known.is_empty() {
        "the store is empty".to_owned()
    } else {
        format!("the latest are {}", known.join(", "))
    }
}
