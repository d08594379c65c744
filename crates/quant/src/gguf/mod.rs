//! Reading and writing GGUF files, the format of llama.cpp: metadata, vocabulary and
//! block-quantized tensors.
//!
//! A file is a header (magic, version, counts), a list of typed key–value pairs, a list of tensor
//! descriptions, padding, and the tensors' bytes:
//!
//! ```text
//! "GGUF"  version u32  n_tensors u64  n_pairs u64
//! n_pairs   × { key string, type u32, value }
//! n_tensors × { name string, n_dims u32, dims u64 × n_dims, type u32, offset u64 }
//! padding to the alignment      (general.alignment, 32 unless given)
//! data      (each tensor at its offset from here, aligned)
//! ```
//!
//! A string is a u64 length and UTF-8 bytes; an array is an element type, a u64 length and the
//! elements.
//! Dimensions run from the fastest-varying one, so a matrix `[d_out, d_in]` has `dims = [d_in, d_out]`.
//! Versions 2 and 3 differ only in that 3 may also be big-endian, which is refused here.
//!
//! Nothing in a file is believed before it is checked: counts and sizes against the bytes that are
//! left, offsets against each other, strings for UTF-8.
//! Every failure is an [`Error`](crate::Error) that names the file and the key or tensor.
//!
//! # Source
//! - the format: `docs/gguf.md` of ggml
//! - reference: PyPI `gguf` 0.19.0, `gguf_reader.py` and `quants.py`; golden `fixtures/gguf`

mod cursor;
mod dequantize;
mod file;
mod k_quants;
mod legacy;
mod metadata;
mod plain;
mod quantize;
mod tensor;
mod tensor_type;
mod value;
mod vocabulary;
mod write;

pub use dequantize::{can_dequantize, dequantize_into};
pub use file::GgufFile;
pub use metadata::{FromValue, Metadata};
pub use quantize::{can_quantize, quantize};
pub use tensor::GgufTensor;
pub use tensor_type::GgmlType;
pub use value::{Array, Value, ValueType};
pub use vocabulary::GgufVocabulary;
pub use write::{GgufSpec, StagedGguf, write_gguf};
