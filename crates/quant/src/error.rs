//! The one error type of this crate.

use std::path::PathBuf;

use crate::bnb_layout::BnbLayoutError;
use crate::config::BLOCK_SIZES;
use crate::gguf::GgmlType;

/// Result of this crate's fallible operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that a file of quantized weights can get wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to open a file.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },

    /// A file does not start with the four bytes `GGUF`.
    #[error("{}: not a GGUF file, the first bytes are {:?}", file.display(), String::from_utf8_lossy(got))]
    NotGguf {
        /// The file.
        file: PathBuf,
        /// The bytes that stand there instead, at most four.
        got: Vec<u8>,
    },

    /// A GGUF file written for big-endian machines.
    #[error("{}: big-endian GGUF files are not supported, convert it to little-endian first", file.display())]
    BigEndian {
        /// The file.
        file: PathBuf,
    },

    /// A GGUF version other than 2 and 3.
    #[error("{}: GGUF version {got} is not supported, expected 2 or 3", file.display())]
    GgufVersion {
        /// The file.
        file: PathBuf,
        /// The version it declares.
        got: u32,
    },

    /// A file ends before what it announces.
    #[error("{}: {what} at byte {offset} needs {needed} bytes, the file has {available} left", file.display())]
    Truncated {
        /// The file.
        file: PathBuf,
        /// What was being read.
        what: String,
        /// Where it begins.
        offset: usize,
        /// The bytes it needs.
        needed: u64,
        /// The bytes there are from `offset` to the end.
        available: usize,
    },

    /// A count that the rest of the file cannot hold.
    #[error("{}: {what} announces {count} items, the rest of the file can hold {limit}", file.display())]
    CountTooLarge {
        /// The file.
        file: PathBuf,
        /// What is counted.
        what: String,
        /// The count.
        count: u64,
        /// The most that fits.
        limit: usize,
    },

    /// A string that is not UTF-8.
    #[error("{}: {what} at byte {offset} is not valid UTF-8", file.display())]
    InvalidUtf8 {
        /// The file.
        file: PathBuf,
        /// What was being read.
        what: String,
        /// Where the string begins.
        offset: usize,
    },

    /// A metadata value of a type that does not exist.
    #[error("{}: key `{key}` has unknown value type {code}", file.display())]
    UnknownValueType {
        /// The file.
        file: PathBuf,
        /// The metadata key.
        key: String,
        /// The type's number in the file.
        code: u32,
    },

    /// Arrays of arrays of arrays beyond any use.
    #[error("{}: key `{key}` nests arrays deeper than {limit}", file.display())]
    NestedTooDeep {
        /// The file.
        file: PathBuf,
        /// The metadata key.
        key: String,
        /// The deepest nesting that is read.
        limit: usize,
    },

    /// The same metadata key twice.
    #[error("{}: key `{key}` stands there twice", file.display())]
    DuplicateKey {
        /// The file.
        file: PathBuf,
        /// The metadata key.
        key: String,
    },

    /// A metadata key that is needed and not there.
    #[error("{}: key `{key}` is missing", file.display())]
    MissingKey {
        /// The file.
        file: PathBuf,
        /// The metadata key.
        key: String,
    },

    /// A metadata value of the wrong type or out of range.
    #[error("{}: key `{key}` must be {expected}, got {got}", file.display())]
    InvalidValue {
        /// The file.
        file: PathBuf,
        /// The metadata key.
        key: String,
        /// What it must be.
        expected: String,
        /// What it is.
        got: String,
    },

    /// The same tensor name twice.
    #[error("{}: tensor `{tensor}` stands there twice", file.display())]
    DuplicateTensor {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
    },

    /// A tensor of a type that does not exist.
    #[error("{}: tensor `{tensor}` has unknown type {code}", file.display())]
    UnknownTensorType {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The type's number in the file.
        code: u32,
    },

    /// A tensor of more than four dimensions.
    #[error("{}: tensor `{tensor}` has {got} dimensions, at most {limit} are allowed", file.display())]
    TooManyDimensions {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The number of dimensions it declares.
        got: u32,
        /// The most there may be.
        limit: u32,
    },

    /// Dimensions whose product is beyond any address.
    #[error("{}: tensor `{tensor}` has dimensions {dims:?}, whose size overflows", file.display())]
    SizeOverflow {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its dimensions as in the file.
        dims: Vec<u64>,
    },

    /// A type that numbers cannot be packed into.
    #[error("numbers cannot be packed into {kind}")]
    NoQuantizer {
        /// The type.
        kind: GgmlType,
    },

    /// Numbers that do not make whole blocks.
    #[error("{elements} numbers are no whole blocks of {kind}, which hold {block} each")]
    BlockElements {
        /// The type.
        kind: GgmlType,
        /// The numbers there are.
        elements: usize,
        /// The numbers of a block.
        block: usize,
    },

    /// A number that a type cannot hold.
    #[error("number {index} is {value}, which {kind} cannot hold")]
    NotFinite {
        /// The type.
        kind: GgmlType,
        /// Place of the number.
        index: usize,
        /// The number.
        value: f32,
    },

    /// Another number of values than a tensor was announced with.
    #[error("tensor `{tensor}` must have {expected} values, got {got}")]
    ValueCount {
        /// The tensor.
        tensor: String,
        /// The elements of its shape.
        expected: usize,
        /// The values there are.
        got: usize,
    },

    /// A row that does not consist of whole blocks.
    #[error("{}: tensor `{tensor}` has rows of {row} elements, {kind} needs a multiple of {block}", file.display())]
    PartialBlock {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        kind: GgmlType,
        /// The length of its rows.
        row: usize,
        /// The elements of a block.
        block: usize,
    },

    /// A tensor whose data begin at an unaligned place.
    #[error("{}: tensor `{tensor}` begins at offset {offset}, not a multiple of {alignment}", file.display())]
    UnalignedTensor {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its offset within the data section.
        offset: u64,
        /// The file's alignment.
        alignment: usize,
    },

    /// A tensor whose data lie beyond the end of the file.
    #[error(
        "{}: tensor `{tensor}` takes {bytes} bytes at offset {offset} of the data section, which has {available}",
        file.display()
    )]
    TensorOutOfFile {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its offset within the data section.
        offset: u64,
        /// Its size.
        bytes: usize,
        /// The bytes of the data section.
        available: usize,
    },

    /// Two tensors that share bytes.
    #[error("{}: tensors `{first}` and `{second}` overlap", file.display())]
    OverlappingTensors {
        /// The file.
        file: PathBuf,
        /// The tensor that begins first.
        first: String,
        /// The tensor that begins inside it.
        second: String,
    },

    /// A tensor that is not in the file.
    #[error("{}: tensor `{tensor}` is missing", file.display())]
    MissingTensor {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
    },

    /// A known tensor type that cannot be turned into numbers here.
    #[error("{}: tensor `{tensor}` is of type {kind}, which cannot be dequantized", file.display())]
    UnsupportedTensorType {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        kind: GgmlType,
    },

    /// A type without a dequantizer, outside any file.
    #[error("{kind} cannot be dequantized")]
    NoDequantizer {
        /// The type.
        kind: GgmlType,
    },

    /// Bytes and elements of a dequantization that do not belong together.
    #[error("{elements} elements of {kind} take {expected} bytes, got {got}")]
    BlockBytes {
        /// The type.
        kind: GgmlType,
        /// The elements asked for.
        elements: usize,
        /// The bytes they take, rounded down to whole blocks.
        expected: usize,
        /// The bytes given.
        got: usize,
    },

    /// A number that is infinite or not a number.
    #[error("{what}[{index}] must be finite, got {value}")]
    NonFinite {
        /// What the number belongs to.
        what: &'static str,
        /// Its place there, counted in row-major order.
        index: usize,
        /// The number.
        value: f32,
    },

    /// More or fewer elements than a shape or a format asks for.
    #[error("{what} must have {expected} elements, got {got}")]
    Length {
        /// What has the wrong length.
        what: &'static str,
        /// The length it must have.
        expected: usize,
        /// The length it has.
        got: usize,
    },

    /// A block size that no format has.
    #[error("block_size must be one of {BLOCK_SIZES:?}, got {got}")]
    BlockSize {
        /// The block size.
        got: usize,
    },

    /// Blocks of nothing.
    #[error("block_size must not be zero")]
    ZeroBlockSize,

    /// Double quantization asked of a kind that has too few scales for it.
    #[error("double_quant needs scales of blocks, int8_vectorwise has scales of rows")]
    DoubleQuantOfRows,

    /// Plain scales where nested ones were announced, or the other way round.
    #[error("double_quant is {double_quant}, but the scales are not of that kind")]
    ScalesKind {
        /// What was announced.
        double_quant: bool,
    },

    /// A shape without elements.
    #[error("shape {shape:?} has no elements, there is nothing to quantize")]
    EmptyShape {
        /// The shape.
        shape: Vec<usize>,
    },

    /// A shape beyond any address.
    #[error("the number of elements of shape {shape:?} overflows")]
    ShapeOverflow {
        /// The shape.
        shape: Vec<usize>,
    },

    /// A linear layer made of something else than a matrix.
    #[error("the weight of a linear layer must be a matrix, got shape {shape:?}")]
    NotAMatrix {
        /// The shape.
        shape: Vec<usize>,
    },

    /// A weight in bitsandbytes' layout that cannot be read or written.
    #[error("weight `{weight}`: {source}")]
    BnbLayout {
        /// The weight.
        weight: String,
        /// What is wrong with it.
        source: BnbLayoutError,
    },
}
