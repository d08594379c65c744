//! The one error type of this crate.

use std::fmt;
use std::path::PathBuf;

use burn::tensor::DType;
use flametune_quant::QuantKind;

use crate::checkpoint::{HeaderError, IndexError, TensorSpec};

/// Result of this crate's fallible operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that a checkpoint, a configuration or a batch of token ids can get wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read or write a file.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },

    /// A GGUF file that cannot be opened, or contradicts itself.
    #[error(transparent)]
    Quant(#[from] flametune_quant::Error),

    /// An adapter that the model lacks, or that does not fit it.
    #[error(transparent)]
    Peft(#[from] flametune_peft::Error),

    /// Several sequences in a row that also has virtual tokens.
    #[error(
        "row {row} holds a segment {segment}: virtual tokens need one sequence a row, in segment 1"
    )]
    PackedPrompt {
        /// The row.
        row: usize,
        /// The segment.
        segment: u32,
    },

    /// A folder holds no weights that this crate knows how to read.
    #[error("{}: no weights found, looked for {}", folder.display(), looked_for.join(", "))]
    NoWeights {
        /// The folder.
        folder: PathBuf,
        /// The file names tried, in order.
        looked_for: Vec<String>,
    },

    /// A folder that holds several models where one is expected.
    #[error("{}: several models: {}", folder.display(), Paths(files))]
    SeveralModels {
        /// The folder.
        folder: PathBuf,
        /// The model files in it.
        files: Vec<PathBuf>,
    },

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
        source: HeaderError,
    },

    /// A `model.safetensors.index.json` that cannot be followed.
    #[error("{}: invalid index: {source}", file.display())]
    InvalidIndex {
        /// The index file.
        file: PathBuf,
        /// What is wrong with it.
        source: IndexError,
    },

    /// One tensor name is stored in two files of the same checkpoint.
    #[error("tensor `{name}` is stored twice, in {} and in {}", first.display(), second.display())]
    DuplicateTensor {
        /// The tensor.
        name: String,
        /// The first file that holds it.
        first: PathBuf,
        /// The second file that holds it.
        second: PathBuf,
    },

    /// A tensor the model needs is not in the checkpoint.
    #[error("{}: tensor `{name}` is missing", file.display())]
    MissingTensor {
        /// The tensor.
        name: String,
        /// The file or folder that should hold it.
        file: PathBuf,
    },

    /// The checkpoint holds tensors that the model has no place for.
    #[error("{}: {} unknown tensor(s): {}", file.display(), names.len(), Shortened(names))]
    UnknownTensors {
        /// Their names, sorted.
        names: Vec<String>,
        /// The file or folder that holds them.
        file: PathBuf,
    },

    /// A tensor's shape is not the one the configuration implies.
    #[error("{}: tensor `{tensor}` must have shape {expected:?}, got {got:?}", file.display())]
    ShapeMismatch {
        /// The tensor.
        tensor: String,
        /// The file that holds it.
        file: PathBuf,
        /// The shape that the configuration implies.
        expected: Vec<usize>,
        /// The shape on disk.
        got: Vec<usize>,
    },

    /// A tensor cannot be read as the wanted element type.
    #[error("{}: tensor `{tensor}` is stored as {stored}, which cannot be read as {}",
            file.display(), wanted.name())]
    UnsupportedConversion {
        /// The tensor.
        tensor: String,
        /// The file that holds it.
        file: PathBuf,
        /// The element type on disk.
        stored: String,
        /// The element type asked for.
        wanted: DType,
    },

    /// A tensor in memory has an element type that a safetensors file cannot hold.
    #[error("tensor `{tensor}` of type {} has no safetensors form", dtype.name())]
    UnsupportedSave {
        /// The tensor.
        tensor: String,
        /// Its element type.
        dtype: DType,
    },

    /// A quantized weight whose stored parts are incomplete or contradict each other.
    #[error("{}: {source}", file.display())]
    StoredWeight {
        /// The file that holds it.
        file: PathBuf,
        /// The weight, and what is wrong with it.
        source: Box<flametune_quant::Error>,
    },

    /// A weight that cannot be quantized.
    #[error("{}: tensor `{tensor}` cannot be quantized: {source}", file.display())]
    CannotQuantize {
        /// The tensor.
        tensor: String,
        /// The file that holds it.
        file: PathBuf,
        /// Why not.
        source: Box<flametune_quant::Error>,
    },

    /// Quantization asked of a checkpoint that is quantized already.
    #[error("{}: tensor `{tensor}` is quantized already, load the checkpoint as it is", file.display())]
    AlreadyQuantized {
        /// The tensor.
        tensor: String,
        /// The file that holds it.
        file: PathBuf,
    },

    /// Layers of several kinds, for which `config.json` has room for one.
    #[error(
        "layer `{first}` is {first_kind} and layer `{second}` is {second_kind}, \
         a checkpoint can hold one kind"
    )]
    MixedKinds {
        /// A layer.
        first: String,
        /// Its kind.
        first_kind: QuantKind,
        /// A layer of another kind.
        second: String,
        /// That kind.
        second_kind: QuantKind,
    },

    /// The data handed over for saving differ from what was announced.
    #[error(
        "tensor `{}` was announced as {} {:?}, got {} {:?}",
        announced.name, announced.dtype.name(), announced.shape, got.dtype.name(), got.shape
    )]
    AnnouncedOtherwise {
        /// The tensor as announced.
        announced: Box<TensorSpec>,
        /// The tensor as its data have it.
        got: Box<TensorSpec>,
    },

    /// `config.json` names an architecture that is not implemented.
    #[error("model_type `{model_type}` is not supported, known: {}", supported.join(", "))]
    UnsupportedArchitecture {
        /// The `model_type` of the file.
        model_type: String,
        /// The model types that are implemented.
        supported: Vec<String>,
    },

    /// A field of a configuration is missing, out of range or contradicts another.
    #[error("{}: {field} {reason}", file.display())]
    InvalidConfig {
        /// The configuration file.
        file: PathBuf,
        /// The field.
        field: String,
        /// What it must be and what it is, such as "must be positive, got 0".
        reason: String,
    },

    /// A configuration turns on something that is not implemented.
    #[error("{field} = {value} is not supported: {hint}")]
    UnsupportedOption {
        /// The field.
        field: String,
        /// Its value.
        value: String,
        /// What to use instead.
        hint: String,
    },

    /// A batch without a single token.
    #[error("the input holds no tokens")]
    EmptyInput,

    /// Rows of different lengths where one length is needed.
    #[error("row {row} holds {got} tokens, the first row holds {expected}")]
    RaggedBatch {
        /// The row that differs.
        row: usize,
        /// The length of the first row.
        expected: usize,
        /// The length of this row.
        got: usize,
    },

    /// A list beside the token ids that is not as long as they are.
    #[error("{what} must hold one id for each of {expected} tokens, got {got}")]
    BatchLength {
        /// Which list.
        what: &'static str,
        /// The number of tokens.
        expected: usize,
        /// The number of ids.
        got: usize,
    },

    /// A batch of another number of rows than the cache was made for.
    #[error("the cache holds {expected} rows, the batch has {got}")]
    CacheBatch {
        /// Rows of the cache.
        expected: usize,
        /// Rows of the batch.
        got: usize,
    },

    /// A sentence id beyond the embedding that BERT has for them.
    #[error("token type {id} is out of range, the model knows {types}")]
    TokenTypeOutOfRange {
        /// The id.
        id: u32,
        /// How many the model knows.
        types: usize,
    },

    /// The model has no head for what was asked.
    #[error("the model has no `{head}` head")]
    NoHead {
        /// The head asked for.
        head: &'static str,
    },

    /// A token id beyond the vocabulary.
    #[error(
        "token id {id} at position {position} is out of range, the vocabulary holds {vocab_size}"
    )]
    TokenOutOfRange {
        /// The id.
        id: i64,
        /// The size of the vocabulary.
        vocab_size: usize,
        /// Where it stands in the sequence.
        position: usize,
    },

    /// More positions than the model, or its cache, has room for.
    #[error("{requested} positions requested, the limit is {limit}")]
    ContextOverflow {
        /// Positions asked for.
        requested: usize,
        /// Positions available.
        limit: usize,
    },
}

/// The first few names of a long list.
struct Shortened<'a>(&'a [String]);

impl fmt::Display for Shortened<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 5;
        f.write_str(&self.0[..self.0.len().min(SHOWN)].join(", "))?;
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// File names, separated by commas.
struct Paths<'a>(&'a [PathBuf]);

impl fmt::Display for Paths<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, path) in self.0.iter().enumerate() {
            let name = path.file_name().unwrap_or(path.as_os_str());
            write!(
                f,
                "{}{}",
                if index == 0 { "" } else { ", " },
                name.display()
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_name_lists_are_shortened() {
        let names = (0..7).map(|i| format!("t{i}")).collect();
        let error = Error::UnknownTensors {
            names,
            file: "model.safetensors".into(),
        };
        assert_eq!(
            error.to_string(),
            "model.safetensors: 7 unknown tensor(s): t0, t1, t2, t3, t4 and 2 more"
        );
    }

    #[test]
    fn shape_mismatch_names_file_tensor_and_both_shapes() {
        let error = Error::ShapeMismatch {
            tensor: "lm_head.weight".into(),
            file: "m/model.safetensors".into(),
            expected: vec![4, 2],
            got: vec![2, 4],
        };
        assert_eq!(
            error.to_string(),
            "m/model.safetensors: tensor `lm_head.weight` must have shape [4, 2], got [2, 4]"
        );
    }
}
