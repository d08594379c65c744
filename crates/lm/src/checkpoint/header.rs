//! The header of a safetensors file, checked completely before any of its numbers is used.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::str::Utf8Error;

use ::safetensors::Dtype;
use serde::de::value::StrDeserializer;
use serde::de::{Deserialize, Deserializer, IntoDeserializer, MapAccess, Visitor};

/// Bytes of the little-endian header length at the start of a file.
pub(super) const LENGTH_BYTES: usize = size_of::<u64>();

/// The longest header accepted: the limit of the reference implementation.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// The key that holds free-form strings instead of a tensor.
pub(super) const METADATA_KEY: &str = "__metadata__";

/// What is wrong with a safetensors file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// The file ends inside the header length.
    #[error("the file holds {bytes} bytes, fewer than the 8 of the header length")]
    TooShort {
        /// Bytes in the file.
        bytes: usize,
    },
    /// The header claims an unreasonable length.
    #[error("the header length is {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// The length it claims.
        bytes: u64,
        /// The longest header accepted.
        limit: u64,
    },
    /// The file ends inside the header.
    #[error("the header takes {header_bytes} bytes, the file has only {available} left for it")]
    Truncated {
        /// The length it claims.
        header_bytes: u64,
        /// Bytes that follow the header length.
        available: usize,
    },
    /// The header is not text.
    #[error("the header is not UTF-8: {source}")]
    NotUtf8 {
        /// Where it stops being text.
        source: Utf8Error,
    },
    /// The header is not JSON, or an entry of it is not a tensor's description.
    #[error("the header is not valid: {source}")]
    InvalidJson {
        /// Line, column and cause.
        source: serde_json::Error,
    },
    /// The header describes one name twice.
    #[error("tensor `{tensor}` is described twice")]
    RepeatedTensor {
        /// The tensor.
        tensor: String,
    },
    /// The name is the one of the free-form strings.
    #[error("`{tensor}` cannot name a tensor")]
    ReservedName {
        /// The name.
        tensor: String,
    },
    /// The element type is not one of the format.
    #[error("tensor `{tensor}` has the unknown type `{dtype}`")]
    UnknownDtype {
        /// The tensor.
        tensor: String,
        /// The type it claims.
        dtype: String,
    },
    /// The tensor does not begin where the one before it ends: an overlap or a gap.
    #[error(
        "tensor `{tensor}` must begin at byte {expected}, where the one before it ends, got {begin}"
    )]
    WrongBegin {
        /// The tensor.
        tensor: String,
        /// The end of the tensor before it.
        expected: usize,
        /// The beginning it claims.
        begin: usize,
    },
    /// The offsets of the tensor run backwards.
    #[error("tensor `{tensor}` ends at byte {end}, before its beginning at {begin}")]
    BackwardOffsets {
        /// The tensor.
        tensor: String,
        /// The beginning it claims.
        begin: usize,
        /// The end it claims.
        end: usize,
    },
    /// The shape describes more bytes than can be counted, or a broken number of bytes.
    #[error("tensor `{tensor}` of type {dtype} has the impossible shape {shape:?}")]
    ImpossibleShape {
        /// The tensor.
        tensor: String,
        /// The shape it claims.
        shape: Vec<usize>,
        /// The type it claims.
        dtype: Dtype,
    },
    /// Shape and type take another number of bytes than the offsets give.
    #[error("tensor `{tensor}` needs {expected} bytes for its shape, its offsets give {got}")]
    ByteCount {
        /// The tensor.
        tensor: String,
        /// Bytes that shape and type take.
        expected: usize,
        /// Bytes between the offsets.
        got: usize,
    },
    /// The tensors do not fill the rest of the file exactly.
    #[error("the tensors take {expected} bytes, the file holds {got} after its header")]
    DataLength {
        /// Bytes that the header describes.
        expected: usize,
        /// Bytes that are there.
        got: usize,
    },
}

/// A checked header.
#[derive(Debug, Default)]
pub(super) struct Header {
    /// Free-form strings, such as `format = pt`.
    pub(super) metadata: BTreeMap<String, String>,
    /// The tensors in file order. Their byte ranges lie within the file and do not overlap.
    pub(super) tensors: Vec<HeaderTensor>,
}

/// One tensor of a checked header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HeaderTensor {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// Where its bytes lie, counted from the start of the file.
    pub(super) range: Range<usize>,
}

impl Header {
    /// Reads and checks the header of a whole file.
    pub(super) fn parse(file: &[u8]) -> Result<Self, HeaderError> {
        let (length, rest) = file
            .split_first_chunk::<LENGTH_BYTES>()
            .ok_or(HeaderError::TooShort { bytes: file.len() })?;
        let header_bytes = u64::from_le_bytes(*length);
        if header_bytes > MAX_HEADER_BYTES {
            return Err(HeaderError::TooLarge {
                bytes: header_bytes,
                limit: MAX_HEADER_BYTES,
            });
        }
        let (text, data) = usize::try_from(header_bytes)
            .ok()
            .and_then(|bytes| rest.split_at_checked(bytes))
            .ok_or(HeaderError::Truncated {
                header_bytes,
                available: rest.len(),
            })?;
        let text = str::from_utf8(text).map_err(|source| HeaderError::NotUtf8 { source })?;
        let raw: RawHeader =
            serde_json::from_str(text).map_err(|source| HeaderError::InvalidJson { source })?;
        raw.check(file.len() - data.len(), data.len())
    }
}

/// The header as written, names in file order and repetitions kept.
#[derive(Default)]
struct RawHeader {
    metadata: BTreeMap<String, String>,
    tensors: Vec<(String, RawTensor)>,
}

#[derive(serde::Deserialize)]
struct RawTensor {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

impl RawHeader {
    /// Checks every claim against the `available` bytes that follow the header at `start`.
    fn check(mut self, start: usize, available: usize) -> Result<Header, HeaderError> {
        let mut seen = HashSet::with_capacity(self.tensors.len());
        if let Some((tensor, _)) = self
            .tensors
            .iter()
            .find(|(name, _)| !seen.insert(name.as_str()))
        {
            return Err(HeaderError::RepeatedTensor {
                tensor: tensor.clone(),
            });
        }
        self.tensors.sort_by_key(|(_, tensor)| tensor.data_offsets);

        let mut end_of_last = 0;
        let mut tensors = Vec::with_capacity(self.tensors.len());
        for (name, raw) in self.tensors {
            let tensor = raw.check(name, end_of_last)?;
            end_of_last = tensor.range.end;
            tensors.push(tensor);
        }
        if end_of_last != available {
            return Err(HeaderError::DataLength {
                expected: end_of_last,
                got: available,
            });
        }
        // Every range ends within the file from here on, so that the sums cannot overflow.
        for tensor in &mut tensors {
            tensor.range = tensor.range.start + start..tensor.range.end + start;
        }
        Ok(Header {
            metadata: self.metadata,
            tensors,
        })
    }
}

impl RawTensor {
    /// Checks one tensor; its range is still counted from the end of the header.
    fn check(self, tensor: String, expected: usize) -> Result<HeaderTensor, HeaderError> {
        let (begin, end) = self.data_offsets;
        let spelled: StrDeserializer<'_, serde::de::value::Error> =
            self.dtype.as_str().into_deserializer();
        let Ok(dtype) = Dtype::deserialize(spelled) else {
            return Err(HeaderError::UnknownDtype {
                tensor,
                dtype: self.dtype,
            });
        };
        if end < begin {
            return Err(HeaderError::BackwardOffsets { tensor, begin, end });
        }
        if begin != expected {
            return Err(HeaderError::WrongBegin {
                tensor,
                expected,
                begin,
            });
        }
        match byte_count(&self.shape, dtype) {
            None => Err(HeaderError::ImpossibleShape {
                tensor,
                shape: self.shape,
                dtype,
            }),
            Some(bytes) if bytes != end - begin => Err(HeaderError::ByteCount {
                tensor,
                expected: bytes,
                got: end - begin,
            }),
            Some(_) => Ok(HeaderTensor {
                name: tensor,
                dtype,
                shape: self.shape,
                range: begin..end,
            }),
        }
    }
}

/// The bytes that a tensor takes, or `None` when they cannot be counted or are not whole.
pub(super) fn byte_count(shape: &[usize], dtype: Dtype) -> Option<usize> {
    let elements = shape
        .iter()
        .try_fold(1_usize, |product, &d| product.checked_mul(d))?;
    let bits = elements.checked_mul(dtype.bitsize())?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeaderVisitor;

        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object from tensor names to their descriptions")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut header = RawHeader::default();
                while let Some(key) = map.next_key::<String>()? {
                    if key == METADATA_KEY {
                        header.metadata = map.next_value()?;
                    } else {
                        header.tensors.push((key, map.next_value()?));
                    }
                }
                Ok(header)
            }
        }

        deserializer.deserialize_map(HeaderVisitor)
    }
}

#[cfg(test)]
mod tests;
