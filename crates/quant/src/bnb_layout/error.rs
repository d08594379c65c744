//! What a weight stored in bitsandbytes' layout can get wrong.

use safetensors::Dtype;

use crate::config::QuantKind;
use crate::error::Error;

/// What is wrong with the parts of a weight in bitsandbytes' layout.
///
/// Parts are named without the weight's name before them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BnbLayoutError {
    /// A part that is needed and not there.
    #[error("part `{part}` is missing")]
    MissingPart {
        /// The part.
        part: &'static str,
    },

    /// No quant state of any kind.
    #[error("there is neither of the parts `{first}` and `{second}`")]
    MissingState {
        /// The part of one kind.
        first: String,
        /// The part of the other.
        second: String,
    },

    /// A quant state of each kind.
    #[error("there are both of the parts `{first}` and `{second}`")]
    SeveralStates {
        /// The part of one kind.
        first: String,
        /// The part of the other.
        second: String,
    },

    /// A part that contradicts the quant state.
    #[error("part `{part}` is there, but the quant state has no `nested_blocksize`")]
    UnexpectedPart {
        /// The part.
        part: &'static str,
    },

    /// A part of the wrong element type.
    #[error("part `{part}` must have dtype {expected}, got {got}")]
    Dtype {
        /// The part.
        part: &'static str,
        /// The types it may have.
        expected: &'static str,
        /// The type it has.
        got: Dtype,
    },

    /// A part of the wrong shape.
    #[error("part `{part}` must have shape {expected:?}, got {got:?}")]
    Shape {
        /// The part.
        part: &'static str,
        /// The shape that the quant state asks for.
        expected: Vec<usize>,
        /// The shape it has.
        got: Vec<usize>,
    },

    /// A part whose bytes are not those of its shape.
    #[error("part `{part}` must have {expected} bytes, got {got}")]
    Bytes {
        /// The part.
        part: &'static str,
        /// The bytes of its shape.
        expected: usize,
        /// The bytes it has.
        got: usize,
    },

    /// A quant state that is not the JSON object it should be.
    #[error("the quant state is not valid: {source}")]
    InvalidState {
        /// What the parser said.
        source: serde_json::Error,
    },

    /// A field of the quant state with a value that is not supported.
    #[error("field `{field}` of the quant state must be {expected}, got {got}")]
    InvalidField {
        /// The field.
        field: &'static str,
        /// What it must be.
        expected: String,
        /// What it is.
        got: String,
    },

    /// Some fields of double quantization without the others.
    #[error("field `{field}` of the quant state is missing, though others of `nested_*` are there")]
    MissingField {
        /// The field.
        field: &'static str,
    },

    /// A table that is not the one of the kind.
    #[error("part `{part}` has {got} at {index}, the table of this kind has {expected}")]
    Table {
        /// The part.
        part: &'static str,
        /// The entry.
        index: usize,
        /// What the table should have there.
        expected: f32,
        /// What it has.
        got: f32,
    },

    /// A scale that is infinite or not a number.
    #[error("part `{part}` must have finite elements, got {value} at {index}")]
    NonFinite {
        /// The part.
        part: &'static str,
        /// The element.
        index: usize,
        /// Its value.
        value: f32,
    },

    /// A stored shape without elements, or beyond any address.
    #[error(
        "field `shape` of the quant state must have at least one element and not overflow, got {shape:?}"
    )]
    StoredShape {
        /// The shape.
        shape: Vec<usize>,
    },

    /// int8 rows of something else than a matrix.
    #[error("rows of int8 must be those of a matrix, got shape {shape:?}")]
    RowsOfNoMatrix {
        /// The shape.
        shape: Vec<usize>,
    },

    /// int8 rows in an order that is not supported.
    #[error("part `weight_format` must be 0, row after row, got {got:?}")]
    RowFormat {
        /// The format, if there is one.
        got: Option<u8>,
    },

    /// An 8-bit weight whose scales have no name.
    #[error("the name of an 8-bit weight must end in `weight`")]
    WeightName,

    /// A kind that has no place in the layout.
    #[error(
        "{kind} weights have no place in bitsandbytes' layout, \
         which has nf4, fp4 and int8_vectorwise"
    )]
    UnsupportedKind {
        /// The kind.
        kind: QuantKind,
    },
}

impl BnbLayoutError {
    /// The error with the name of the weight.
    pub(super) fn of(self, weight: &str) -> Error {
        Error::BnbLayout {
            weight: weight.to_owned(),
            source: self,
        }
    }
}
