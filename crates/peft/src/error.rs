//! The one error type of this crate.

use std::fmt;
use std::path::PathBuf;

/// Result of this crate's fallible operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that an adapter's configuration, its file or a selection can get wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An adapter that was taken from a model of another build.
    #[error("adapter {name:?} has parts for {expected} places, but the model has {got} or others")]
    OtherSlots {
        /// The adapter.
        name: String,
        /// The places of the model that it was taken from.
        expected: usize,
        /// The places of this one.
        got: usize,
    },
    /// The operating system refused to read or write a file.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },

    /// The base weights could not be read or written.
    #[error(transparent)]
    Quant(#[from] flametune_quant::Error),

    /// A file is not valid JSON, or not JSON of the expected shape.
    #[error("{}: invalid JSON: {source}", file.display())]
    InvalidJson {
        /// The file.
        file: PathBuf,
        /// Line, column and cause.
        source: serde_json::Error,
    },

    /// A safetensors file whose header contradicts itself or the file.
    #[error("{}: invalid safetensors: {source}", file.display())]
    InvalidSafetensors {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        source: safetensors::SafeTensorError,
    },

    /// A `peft_type` that is not implemented.
    #[error("peft_type `{got}` is not supported, known: {}", known.join(", "))]
    UnknownPeftType {
        /// The type that the file names.
        got: String,
        /// Those that are implemented.
        known: Vec<String>,
    },

    /// An option of a configuration that is active and not implemented.
    #[error("{field} = {value} is not supported: {hint}")]
    UnsupportedOption {
        /// The option.
        field: &'static str,
        /// Its value.
        value: String,
        /// What to do instead.
        hint: &'static str,
    },

    /// A value that no configuration may have.
    #[error("{field} {reason}")]
    InvalidConfig {
        /// The field.
        field: &'static str,
        /// What it must be, and what it is.
        reason: String,
    },

    /// A pattern that is no regular expression, or uses what this crate's do not have.
    #[error("{field}: invalid pattern `{pattern}`: {source}")]
    InvalidPattern {
        /// The field that holds it.
        field: &'static str,
        /// The pattern.
        pattern: String,
        /// Where and why.
        source: Box<regex::Error>,
    },

    /// A name or pattern that matches no module.
    #[error("{field}: `{pattern}` matches no module{}", Near(near))]
    NoMatch {
        /// The field that holds it.
        field: &'static str,
        /// The name or pattern.
        pattern: String,
        /// Names that the model has, the most similar first.
        near: Vec<String>,
    },

    /// A module that the configuration names, of a kind that the method cannot adapt.
    #[error("{method} cannot adapt `{module}`, which is {kind}")]
    UnsupportedModule {
        /// The method.
        method: &'static str,
        /// The module.
        module: String,
        /// What it is.
        kind: &'static str,
    },

    /// A name that cannot be an adapter's.
    #[error("`{name}` cannot name an adapter: {reason}")]
    InvalidName {
        /// The name.
        name: String,
        /// Why not.
        reason: &'static str,
    },

    /// An adapter of this name is there already.
    #[error("there already is an adapter `{name}`")]
    NameTaken {
        /// The name.
        name: String,
    },

    /// No adapter has this name.
    #[error("unknown adapter `{name}`{}", Known(known))]
    UnknownAdapter {
        /// The name.
        name: String,
        /// The adapters that there are.
        known: Vec<String>,
    },

    /// A selection for another number of rows than the batch has.
    #[error("adapters were selected for {got} rows, the batch has {expected}")]
    RowCount {
        /// Rows of the batch.
        expected: usize,
        /// Entries of the selection.
        got: usize,
    },

    /// Two adapters with virtual tokens for the same rows.
    #[error(
        "adapters `{first}` and `{second}` both have virtual tokens, and a row takes one of them"
    )]
    SeveralPrompts {
        /// One adapter.
        first: String,
        /// The other.
        second: String,
    },

    /// A method that needs a place that the model does not have.
    #[error("the model has no place for {method}")]
    NoPlace {
        /// The method.
        method: &'static str,
    },

    /// An adapter that is merged into the base cannot be chosen apart from it.
    #[error("adapter `{name}` is merged into the base, unmerge it first")]
    Merged {
        /// The adapter.
        name: String,
    },

    /// An adapter cannot be merged here.
    #[error("adapter `{name}` cannot be merged into `{module}`: {reason}")]
    Unmergeable {
        /// The adapter.
        name: String,
        /// The module.
        module: String,
        /// Why not.
        reason: &'static str,
    },

    /// Storing a merged weight would change it by more than the given limit.
    #[error(
        "`{module}`: storing the merged weight would leave a relative error of {error:.3e}, the limit is {limit:.3e}"
    )]
    MergeError {
        /// The module.
        module: String,
        /// The relative error of the stored weight.
        error: f64,
        /// The limit that was given.
        limit: f64,
    },

    /// Merging would change the model's answers by more than the given limit.
    #[error("merging would move the logits by a mean KL of {kl:.3e}, the limit is {limit:.3e}")]
    LogitsMoved {
        /// The mean divergence, in nats.
        kl: f64,
        /// The limit that was given.
        limit: f64,
    },

    /// A tensor that the configuration implies is not in the file.
    #[error("{}: tensor `{name}` is missing", file.display())]
    MissingTensor {
        /// The tensor.
        name: String,
        /// The file.
        file: PathBuf,
    },

    /// Tensors that have no place in the adapter.
    #[error("{}: {} unexpected tensor(s): {}", file.display(), names.len(), Shortened(names))]
    UnexpectedTensors {
        /// Their names.
        names: Vec<String>,
        /// The file.
        file: PathBuf,
    },

    /// A tensor of another shape than base and configuration imply.
    #[error("{}: tensor `{tensor}` must have shape {expected:?}, got {got:?}", file.display())]
    ShapeMismatch {
        /// The tensor.
        tensor: String,
        /// The file.
        file: PathBuf,
        /// The shape that base and configuration imply.
        expected: Vec<usize>,
        /// The shape in the file.
        got: Vec<usize>,
    },

    /// A tensor of a type that adapters are not stored in.
    #[error("{}: tensor `{tensor}` is stored as {dtype}, expected F32, F16 or BF16", file.display())]
    UnsupportedDtype {
        /// The tensor.
        tensor: String,
        /// The file.
        file: PathBuf,
        /// The type in the file.
        dtype: String,
    },

    /// A tensor that holds NaN or an infinite number.
    #[error("{}: tensor `{tensor}` holds {value} at element {index}", file.display())]
    NotFinite {
        /// The tensor.
        tensor: String,
        /// The file.
        file: PathBuf,
        /// The first such element, counted row by row.
        index: usize,
        /// Its value.
        value: f64,
    },

    /// A tensor that the file holds twice, and differently.
    #[error(
        "{}: `{tensor}` differs from the embedding's, whose matrix the module uses", file.display()
    )]
    TiedTensors {
        /// The tensor.
        tensor: String,
        /// The file.
        file: PathBuf,
    },

    /// An encoder of virtual tokens that did not make the table beside it.
    #[error("{}: the encoder makes other virtual tokens than those of the adapter beside it", file.display())]
    ForeignEncoder {
        /// The encoder's file.
        file: PathBuf,
    },

    /// The file carries base weights that are not those of the model.
    #[error("{}: `{tensor}` differs from the model's: the adapter belongs to another base", file.display())]
    OtherBase {
        /// The tensor.
        tensor: String,
        /// The file.
        file: PathBuf,
    },

    /// The passport names other base weights than those at hand.
    #[error("the adapter belongs to another base: its weights have digest {expected}, got {got}")]
    ForeignBase {
        /// The digest in the passport.
        expected: String,
        /// The digest of the base at hand.
        got: String,
    },

    /// Adapters that cannot be combined as asked.
    #[error("{combination_type}: {reason}")]
    Incompatible {
        /// The kind of combination.
        combination_type: &'static str,
        /// What stands against it.
        reason: String,
    },
}

struct Near<'a>(&'a [String]);

impl fmt::Display for Near<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => Ok(()),
            names => write!(f, ", near: {}", names.join(", ")),
        }
    }
}

struct Known<'a>(&'a [String]);

impl fmt::Display for Known<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str(", the model has none"),
            names => write!(f, ", known: {}", names.join(", ")),
        }
    }
}

/// The first few of many names.
struct Shortened<'a>(&'a [String]);

impl fmt::Display for Shortened<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 5;
        let shown = &self.0[..self.0.len().min(SHOWN)];
        f.write_str(&shown.join(", "))?;
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}
