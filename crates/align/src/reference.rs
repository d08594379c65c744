//! Log-probabilities under the reference, computed once and kept on disk.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors};

use crate::error::{Error, Result};
use crate::head::{Numbers, write_atomically};

const LOGPS: &str = "reference_logps";
const DIGEST: &str = "digest";

/// Log-probabilities of answers under the reference, with a digest of what they were computed from.
///
/// The digest is the caller's: of the base's weights, the reference adapter and the encoded data.
/// A file with another digest is no cache, and is computed again.
#[derive(Debug, Clone, PartialEq)]
pub struct ReferenceCache {
    /// One number a sequence.
    pub logps: Vec<f32>,
}

impl ReferenceCache {
    /// Reads `path` if it is there and has this digest and this number of sequences.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::File`] for a file that is there but cannot be read.
    pub fn read(path: &Path, digest: &str, sequences: usize) -> Result<Option<Self>> {
        let bytes = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(|source| Error::Io {
                path: path.to_owned(),
                source,
            })?,
        };
        let wrong = |reason: String| Error::File {
            path: path.to_owned(),
            reason,
        };
        let (_, header) =
            SafeTensors::read_metadata(&bytes).map_err(|error| wrong(error.to_string()))?;
        let stored = header.metadata().as_ref();
        if stored
            .and_then(|fields| fields.get(DIGEST))
            .map(String::as_str)
            != Some(digest)
        {
            return Ok(None);
        }
        let file = SafeTensors::deserialize(&bytes).map_err(|error| wrong(error.to_string()))?;
        let tensor = file
            .tensor(LOGPS)
            .map_err(|error| wrong(error.to_string()))?;
        if tensor.dtype() != Dtype::F32 || tensor.shape() != [sequences] {
            let reason = format!(
                "{LOGPS} must be {sequences} numbers in F32, got {:?} in {:?}",
                tensor.shape(),
                tensor.dtype()
            );
            return Err(wrong(reason));
        }
        let (words, _) = tensor.data().as_chunks::<4>();
        let logps = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
        Ok(Some(Self { logps }))
    }

    /// Writes `path` as a whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: &Path, digest: &str) -> Result<()> {
        let metadata = HashMap::from([(DIGEST.to_owned(), digest.to_owned())]);
        write_atomically(path, |to| {
            let tensors = [(LOGPS, Numbers::of(&self.logps))];
            safetensors::serialize_to_file(tensors, Some(metadata), to).map_err(io::Error::other)
        })
    }
}
