//! A GGUF file: header checked, tensors read on demand.

use std::collections::HashMap;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};

use flametune_kernels::MappedFile;

use super::cursor::Cursor;
use super::dequantize::{can_dequantize, dequantize_into};
use super::metadata::Metadata;
use super::tensor::GgufTensor;
use crate::error::{Error, Result};

pub(super) const MAGIC: [u8; 4] = *b"GGUF";
pub(super) const ALIGNMENT_KEY: &str = "general.alignment";
pub(super) const DEFAULT_ALIGNMENT: usize = 32;

/// An open GGUF file.
///
/// Opening reads the header alone; a tensor's bytes are touched when it is asked for.
///
/// # Examples
/// ```no_run
/// use flametune_quant::gguf::GgufFile;
///
/// let file = GgufFile::open("model.gguf")?;
/// for tensor in file.tensors() {
///     println!("{} {:?} {}", tensor.name(), tensor.shape(), tensor.kind());
/// }
/// # Ok::<(), flametune_quant::Error>(())
/// ```
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    content: Content,
    version: u32,
    metadata: Metadata,
    tensors: Vec<GgufTensor>,
    /// Each tensor's bytes within the file, in the order of `tensors`.
    ranges: Vec<Range<usize>>,
    /// Index into `tensors`.
    by_name: HashMap<String, usize>,
}

#[derive(Debug)]
enum Content {
    Mapped(MappedFile),
    Memory(Vec<u8>),
}

impl Deref for Content {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(file) => file,
            Self::Memory(bytes) => bytes,
        }
    }
}

impl GgufFile {
    /// Maps the file at `path` and reads its header.
    ///
    /// The file must not be changed while it is open, see [`MappedFile`].
    ///
    /// # Errors
    /// [`Error::Io`], or whatever is wrong with the header
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let mapped = MappedFile::open(path).map_err(|source| Error::Io {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(path.to_owned(), Content::Mapped(mapped))
    }

    /// Reads the header of a file in memory; `path` serves the error messages.
    ///
    /// # Errors
    /// Whatever is wrong with the header
    pub fn from_bytes(path: impl Into<PathBuf>, bytes: Vec<u8>) -> Result<Self> {
        Self::parse(path.into(), Content::Memory(bytes))
    }

    fn parse(path: PathBuf, content: Content) -> Result<Self> {
        let mut cursor = Cursor::new(&path, &content);
        let version = read_version(&mut cursor)?;
        let n_tensors = cursor.count(GgufTensor::MIN_BYTES)?;
        let n_pairs = cursor.count(Metadata::min_pair_bytes())?;
        let metadata = Metadata::read(&mut cursor, n_pairs)?;
        let (tensors, by_name) = read_tensors(&mut cursor, n_tensors)?;
        let header_end = cursor.position();
        let ranges = locate(
            &path,
            &tensors,
            alignment(&metadata)?,
            header_end,
            content.len(),
        )?;
        Ok(Self {
            path,
            content,
            version,
            metadata,
            tensors,
            ranges,
            by_name,
        })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The version of the format, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The key–value pairs.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors, in the file's order.
    pub fn tensors(&self) -> &[GgufTensor] {
        &self.tensors
    }

    /// The tensor of this name, if there is one.
    pub fn tensor(&self, name: &str) -> Option<&GgufTensor> {
        self.by_name.get(name).map(|&index| &self.tensors[index])
    }

    fn index(&self, name: &str) -> Result<usize> {
        self.by_name
            .get(name)
            .copied()
            .ok_or_else(|| Error::MissingTensor {
                file: self.path.clone(),
                tensor: name.to_owned(),
            })
    }

    /// The bytes of a tensor as stored.
    ///
    /// # Errors
    /// [`Error::MissingTensor`]
    pub fn tensor_bytes(&self, name: &str) -> Result<&[u8]> {
        Ok(&self.content[self.ranges[self.index(name)?].clone()])
    }

    /// Lets the operating system drop the pages of a tensor that has been copied, see
    /// [`MappedFile::release`].
    ///
    /// # Errors
    /// [`Error::MissingTensor`]
    pub fn release(&self, name: &str) -> Result<()> {
        let range = self.ranges[self.index(name)?].clone();
        if let Content::Mapped(file) = &self.content {
            file.release(range);
        }
        Ok(())
    }

    /// The values of a tensor, in row-major order of its [`shape`](GgufTensor::shape).
    ///
    /// # Errors
    /// - [`Error::MissingTensor`]
    /// - [`Error::UnsupportedTensorType`]
    pub fn dequantize(&self, name: &str) -> Result<Vec<f32>> {
        let tensor = &self.tensors[self.index(name)?];
        if !can_dequantize(tensor.kind()) {
            return Err(Error::UnsupportedTensorType {
                file: self.path.clone(),
                tensor: name.to_owned(),
                kind: tensor.kind(),
            });
        }
        let mut values = vec![0.0; tensor.elements()];
        dequantize_into(tensor.kind(), self.tensor_bytes(name)?, &mut values)?;
        Ok(values)
    }
}

/// Checks magic, byte order and version.
fn read_version(cursor: &mut Cursor<'_>) -> Result<u32> {
    let file = cursor.file();
    let magic: [u8; 4] = cursor.array()?;
    if magic != MAGIC {
        return Err(Error::NotGguf {
            file: file.to_owned(),
            got: magic.to_vec(),
        });
    }
    match cursor.u32()? {
        version @ (2 | 3) => Ok(version),
        // A small number whose bytes are reversed.
        version if version != 0 && version & 0xffff == 0 => Err(Error::BigEndian {
            file: file.to_owned(),
        }),
        got => Err(Error::GgufVersion {
            file: file.to_owned(),
            got,
        }),
    }
}

fn read_tensors(
    cursor: &mut Cursor<'_>,
    count: usize,
) -> Result<(Vec<GgufTensor>, HashMap<String, usize>)> {
    let mut tensors = Vec::new();
    let mut by_name = HashMap::new();
    for index in 0..count {
        let tensor = GgufTensor::read(cursor, index)?;
        if by_name.insert(tensor.name().to_owned(), index).is_some() {
            return Err(Error::DuplicateTensor {
                file: cursor.file().to_owned(),
                tensor: tensor.name().to_owned(),
            });
        }
        tensors.push(tensor);
    }
    Ok((tensors, by_name))
}

fn alignment(metadata: &Metadata) -> Result<usize> {
    let alignment = metadata.get::<u32>(ALIGNMENT_KEY)?;
    match alignment.map(|bytes| bytes as usize) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(bytes) if bytes.is_power_of_two() => Ok(bytes),
        Some(bytes) => Err(metadata.invalid(ALIGNMENT_KEY, "a power of two", bytes)),
    }
}

/// The range of each tensor's bytes within the file, in the order of `tensors`.
fn locate(
    file: &Path,
    tensors: &[GgufTensor],
    alignment: usize,
    header_end: usize,
    file_bytes: usize,
) -> Result<Vec<Range<usize>>> {
    // A file without tensors may end before the padding does.
    let data_begin = header_end.next_multiple_of(alignment).min(file_bytes);
    let ranges = tensors
        .iter()
        .map(|tensor| {
            let range = tensor.range(file, alignment, file_bytes - data_begin)?;
            Ok(data_begin + range.start..data_begin + range.end)
        })
        .collect::<Result<Vec<_>>>()?;
    refuse_overlaps(file, tensors, &ranges)?;
    Ok(ranges)
}

fn refuse_overlaps(file: &Path, tensors: &[GgufTensor], ranges: &[Range<usize>]) -> Result<()> {
    let mut order: Vec<usize> = (0..ranges.len())
        .filter(|&i| !ranges[i].is_empty())
        .collect();
    order.sort_unstable_by_key(|&index| ranges[index].start);
    for pair in order.windows(2) {
        if ranges[pair[1]].start < ranges[pair[0]].end {
            return Err(Error::OverlappingTensors {
                file: file.to_owned(),
                first: tensors[pair[0]].name().to_owned(),
                second: tensors[pair[1]].name().to_owned(),
            });
        }
    }
    Ok(())
}
