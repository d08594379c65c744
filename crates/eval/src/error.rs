//! Everything that can go wrong between a task file and a score.

use std::fmt;
use std::path::PathBuf;

/// The result of every fallible function of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Where in a task something is wrong: `task arc (arc.yaml:7), document 3 (arc.jsonl:4)`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// The task.
    pub task: String,
    /// Its file, or the included file that the field stands in.
    pub file: String,
    /// The line, from one.
    pub line: Option<usize>,
    /// The document, numbered from zero as results number it.
    pub doc: Option<usize>,
    /// Where the document stands in its file.
    pub data: Option<String>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task {}", self.task)?;
        match (self.file.as_str(), self.line) {
            ("", _) => {}
            (file, None) => write!(f, " ({file})")?,
            (file, Some(line)) => write!(f, " ({file}:{line})")?,
        }
        match (self.doc, &self.data) {
            (None, _) => Ok(()),
            (Some(doc), None) => write!(f, ", document {doc}"),
            (Some(doc), Some(data)) => write!(f, ", document {doc} ({data})"),
        }
    }
}

/// What was wrong with a task, a document, a model's answer, a judge or a store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("cannot access {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A task file is no YAML mapping.
    #[error("{file}:{line}:{column}: {reason}")]
    Yaml {
        /// The file.
        file: String,
        /// Line, from one.
        line: u64,
        /// Column, from one.
        column: u64,
        /// What the parser expected.
        reason: String,
    },
    /// Task files include each other in a circle.
    #[error("{file} includes itself, through {}", through.join(", "))]
    IncludeCycle {
        /// The file at which the circle closes.
        file: String,
        /// The files on the way.
        through: Vec<String>,
    },
    /// No task, group or tag has this name.
    #[error("there is no task, group or tag {name:?}{}", near_names(near))]
    UnknownTask {
        /// The name.
        name: String,
        /// Names that resemble it.
        near: Vec<String>,
    },
    /// Groups contain each other in a circle.
    #[error("group {name} contains itself")]
    GroupCycle {
        /// The group.
        name: String,
    },
    /// A field that the task needs is not there.
    #[error("{at}: {field} is missing")]
    MissingField {
        /// Where.
        at: Box<Place>,
        /// The field.
        field: String,
    },
    /// A field has the wrong type or value.
    #[error("{at}: {field} must be {expected}, got {got}")]
    InvalidField {
        /// Where.
        at: Box<Place>,
        /// The field.
        field: String,
        /// What is accepted.
        expected: String,
        /// What was there.
        got: String,
    },
    /// A field asks for something that is not implemented.
    #[error("{at}: {field}: {value} is not supported; {hint}")]
    UnsupportedOption {
        /// Where.
        at: Box<Place>,
        /// The field.
        field: String,
        /// What it asks for.
        value: String,
        /// What to do instead.
        hint: String,
    },
    /// A template could not be rendered.
    #[error("{at}: {field}: {reason}")]
    Template {
        /// Where; the line is the one inside the template.
        at: Box<Place>,
        /// The field with the template.
        field: String,
        /// What the template engine said.
        reason: String,
    },
    /// A document has no choices to choose from.
    #[error("{at}: doc_to_choice gives no choices")]
    EmptyChoices {
        /// Where.
        at: Box<Place>,
    },
    /// No data file was found for a split.
    #[error(
        "{at}: no data for the split {split:?}: looked for {}{hint}",
        shown(looked_for)
    )]
    MissingData {
        /// Where.
        at: Box<Place>,
        /// The split.
        split: String,
        /// Paths that would have been read.
        looked_for: Vec<String>,
        /// How to get them, or nothing.
        hint: String,
    },
    /// A split has no documents.
    #[error("{at}: the split {split:?} has no documents")]
    NoDocuments {
        /// Where.
        at: Box<Place>,
        /// The split.
        split: String,
    },
    /// There are fewer documents to take examples from than examples.
    #[error("{at}: {wanted} few-shot examples wanted, {available} documents to take them from")]
    TooFewExamples {
        /// Where.
        at: Box<Place>,
        /// Examples, and one more where the document itself may be among them.
        wanted: usize,
        /// Documents.
        available: usize,
    },
    /// A data file could not be read.
    #[error("{at}: {source}")]
    Data {
        /// Where.
        at: Box<Place>,
        /// What was wrong.
        source: Box<flametune_data::Error>,
    },
    /// The tokenizer or the chat template failed.
    #[error(transparent)]
    Text(#[from] flametune_data::Error),
    /// The model failed.
    #[error(transparent)]
    Infer(#[from] flametune_infer::Error),
    /// The model cannot do what the task asks for.
    #[error("{what}: {reason}")]
    Model {
        /// Which request.
        what: String,
        /// Why not.
        reason: String,
    },
    /// The store of scores cannot be used.
    #[error("{}: {reason}", path.display())]
    Cache {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A metric cannot be computed from the items of a task.
    #[error("{at}: metric {metric}: {reason}")]
    Metric {
        /// Where.
        at: Box<Place>,
        /// The metric.
        metric: String,
        /// Why not.
        reason: String,
    },
    /// Two evaluations cannot be compared item by item.
    #[error("{task}: {reason}")]
    Incomparable {
        /// The task.
        task: String,
        /// Why not.
        reason: String,
    },
    /// A judge gave no answer that could be read, however often it was asked.
    #[error("item {item}: no {wanted} in the judge's answer after {attempts} attempts: {answer:?}")]
    NoVerdict {
        /// The item.
        item: String,
        /// What was looked for.
        wanted: String,
        /// How often it was asked.
        attempts: usize,
        /// The last answer, cut at 200 characters.
        answer: String,
    },
    /// A judge could not be reached.
    #[error("item {item}: the judge {judge} failed: {reason}")]
    JudgeFailed {
        /// The item.
        item: String,
        /// The judge.
        judge: String,
        /// What it said.
        reason: String,
    },
    /// A line of an input file is not what was expected.
    #[error("{file}:{line}: {reason}")]
    Input {
        /// The file.
        file: String,
        /// Line or record, from one.
        line: u64,
        /// What is wrong.
        reason: String,
    },
    /// The database of votes failed.
    #[error("{what}: {source}")]
    Database {
        /// What was being done.
        what: String,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A page, plot or document could not be produced.
    #[error("cannot write the {what}: {reason}")]
    Report {
        /// Which one.
        what: &'static str,
        /// Why not.
        reason: String,
    },
    /// A rule of a gate is no rule.
    #[error("{file}: rule {rule}: {reason}")]
    Rule {
        /// The file of rules.
        file: String,
        /// Number of the rule, from one.
        rule: usize,
        /// What is wrong.
        reason: String,
    },
}

fn near_names(near: &[String]) -> String {
    match near {
        [] => String::new(),
        names => format!("; near names: {}", names.join(", ")),
    }
}

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn database(what: impl Into<String>) -> impl FnOnce(rusqlite::Error) -> Self {
        let what = what.into();
        move |source| Self::Database { what, source }
    }
}

/// The first places of a list, and how many there are besides.
fn shown(places: &[String]) -> String {
    const SHOWN: usize = 4;
    let first = places[..places.len().min(SHOWN)].join(", ");
    match places.len().saturating_sub(SHOWN) {
        0 => first,
        more => format!("{first} and {more} places more"),
    }
}
