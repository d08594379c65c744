//! Reading safetensors checkpoints, in one file or several.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, TensorData};
use flametune_kernels::MappedFile;
use flametune_quant::bnb_layout::BnbPart;

use super::dtype::convert;
use super::header::{Header, HeaderTensor};
use super::index::{Index, IndexError};
use super::{TensorInfo, TensorSource};
use crate::error::{Error, Result};

/// The file of a checkpoint that was not split.
pub(super) const SINGLE_FILE: &str = "model.safetensors";

/// The file that lists the shards of a checkpoint.
pub(super) const INDEX_FILE: &str = "model.safetensors.index.json";

/// A safetensors checkpoint on disk, memory-mapped.
///
/// Opening reads and checks only the headers; [`read`](TensorSource::read) then touches the pages
/// of one tensor.
///
/// # Examples
/// ```no_run
/// use burn::tensor::DType;
/// use flametune_lm::{SafetensorsCheckpoint, TensorSource};
///
/// let checkpoint = SafetensorsCheckpoint::open("SmolLM2-135M-Instruct")?;
/// let embeddings = checkpoint.read("model.embed_tokens.weight", DType::F32)?;
/// assert_eq!(embeddings.shape().as_slice(), [49152, 576]);
/// # Ok::<(), flametune_lm::Error>(())
/// ```
#[derive(Debug)]
pub struct SafetensorsCheckpoint {
    path: PathBuf,
    files: Vec<Shard>,
    tensors: BTreeMap<String, Location>,
    metadata: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    bytes: MappedFile,
}

/// Where a tensor lies: which file, and the checked header entry.
#[derive(Debug)]
struct Location {
    file: usize,
    tensor: HeaderTensor,
}

impl SafetensorsCheckpoint {
    /// Opens a checkpoint: a folder in the Hugging Face layout, a single `.safetensors` file, or
    /// the index of a sharded one.
    ///
    /// In a folder, `model.safetensors` is preferred over `model.safetensors.index.json`.
    ///
    /// # Errors
    /// - [`Error::NoWeights`] for a folder with neither
    /// - [`Error::Io`] for a file that cannot be opened
    /// - [`Error::InvalidSafetensors`] and [`Error::InvalidIndex`] for files that contradict
    ///   themselves
    /// - [`Error::MissingTensor`] for a tensor that is not in the shard the index names
    /// - [`Error::DuplicateTensor`] for a tensor stored in two shards
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if !path.is_dir() {
            return if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                Self::open_sharded(path)
            } else {
                Self::open_files(path, vec![path.to_owned()])
            };
        }
        let (single, index) = (path.join(SINGLE_FILE), path.join(INDEX_FILE));
        if single.is_file() {
            Self::open_files(&single, vec![single.clone()])
        } else if index.is_file() {
            Self::open_sharded(&index)
        } else {
            let looked_for = vec![SINGLE_FILE.to_owned(), INDEX_FILE.to_owned()];
            Err(Error::NoWeights {
                folder: path.to_owned(),
                looked_for,
            })
        }
    }

    /// The file that was opened: the weights themselves, or the index of sharded ones.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The free-form strings of the headers, such as `format = pt`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The bytes of a tensor as stored, of any type and alignment.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.tensors
            .get(name)
            .and_then(|location| self.bytes_at(location))
    }

    fn bytes_at(&self, location: &Location) -> Option<&[u8]> {
        self.files
            .get(location.file)?
            .bytes
            .get(location.tensor.range.clone())
    }

    fn open_sharded(path: &Path) -> Result<Self> {
        let invalid = |source| Error::InvalidIndex {
            file: path.to_owned(),
            source,
        };
        let index = Index::parse(&read_index(path)?).map_err(invalid)?;
        let folder = path.parent().unwrap_or(Path::new(""));

        let mut paths = Vec::new();
        for (shard, tensor) in index.shards() {
            let file = folder.join(shard);
            if !file.is_file() {
                let (tensor, shard) = (tensor.to_owned(), shard.to_owned());
                return Err(invalid(IndexError::MissingShard { tensor, shard }));
            }
            paths.push(file);
        }

        let checkpoint = Self::open_files(path, paths)?;
        for (name, shard) in &index.weight_map {
            let file = folder.join(shard);
            if checkpoint.info(name).is_none_or(|info| info.file != file) {
                return Err(Error::MissingTensor {
                    name: name.clone(),
                    file,
                });
            }
        }
        Ok(checkpoint)
    }

    fn open_files(path: &Path, paths: Vec<PathBuf>) -> Result<Self> {
        let mut checkpoint = Self {
            path: path.to_owned(),
            files: Vec::with_capacity(paths.len()),
            tensors: BTreeMap::new(),
            metadata: BTreeMap::new(),
        };
        for path in paths {
            checkpoint.add_file(path)?;
        }
        Ok(checkpoint)
    }

    fn add_file(&mut self, path: PathBuf) -> Result<()> {
        let bytes = MappedFile::open(&path).map_err(|source| Error::Io {
            path: path.clone(),
            source,
        })?;
        let header = Header::parse(&bytes).map_err(|source| Error::InvalidSafetensors {
            file: path.clone(),
            source,
        })?;
        let file = self.files.len();
        for tensor in header.tensors {
            match self.tensors.entry(tensor.name.clone()) {
                Entry::Vacant(entry) => {
                    entry.insert(Location { file, tensor });
                }
                Entry::Occupied(entry) => {
                    let first = self
                        .files
                        .get(entry.get().file)
                        .map(|shard| shard.path.clone());
                    return Err(Error::DuplicateTensor {
                        name: tensor.name,
                        first: first.unwrap_or_default(),
                        second: path,
                    });
                }
            }
        }
        self.metadata.extend(header.metadata);
        self.files.push(Shard { path, bytes });
        Ok(())
    }
}

impl TensorSource for SafetensorsCheckpoint {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        let Location { file, tensor } = self.tensors.get(name)?;
        Some(TensorInfo {
            shape: tensor.shape.clone(),
            dtype: tensor.dtype.to_string(),
            bytes: tensor.range.len(),
            file: self.files.get(*file)?.path.clone(),
        })
    }

    fn read(&self, name: &str, dtype: DType) -> Result<TensorData> {
        let found = self
            .tensors
            .get(name)
            .and_then(|at| Some((at, self.bytes_at(at)?)));
        let Some((location, bytes)) = found else {
            return Err(Error::MissingTensor {
                name: name.to_owned(),
                file: self.path.clone(),
            });
        };
        let Location { file, tensor } = location;
        let converted = convert(tensor.dtype, bytes, &tensor.shape, dtype);
        if let Some(shard) = self.files.get(*file) {
            // The values are copied: the file's pages need not stand beside them.
            shard.bytes.release(tensor.range.clone());
        }
        converted.ok_or_else(|| Error::UnsupportedConversion {
            tensor: name.to_owned(),
            file: self
                .files
                .get(*file)
                .map(|shard| shard.path.clone())
                .unwrap_or_default(),
            stored: tensor.dtype.to_string(),
            wanted: dtype,
        })
    }

    fn stored(&self, name: &str) -> Option<BnbPart<'_>> {
        let location = self.tensors.get(name)?;
        Some(BnbPart {
            dtype: location.tensor.dtype,
            shape: location.tensor.shape.clone(),
            bytes: Cow::Borrowed(self.bytes_at(location)?),
        })
    }

    fn release(&self, name: &str) {
        let location = self.tensors.get(name);
        if let Some((location, shard)) =
            location.and_then(|location| Some((location, self.files.get(location.file)?)))
        {
            shard.bytes.release(location.tensor.range.clone());
        }
    }
}

/// Reads an index of reasonable length.
fn read_index(path: &Path) -> Result<Vec<u8>> {
    let io = |source| Error::Io {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(io)?;
    let bytes = file.metadata().map_err(io)?.len();
    if bytes > Index::MAX_BYTES {
        let source = IndexError::TooLarge {
            bytes,
            limit: Index::MAX_BYTES,
        };
        return Err(Error::InvalidIndex {
            file: path.to_owned(),
            source,
        });
    }
    let mut text = Vec::new();
    file.take(Index::MAX_BYTES)
        .read_to_end(&mut text)
        .map_err(io)?;
    Ok(text)
}

#[cfg(test)]
mod tests;
