//! Writing GGUF files, version 3.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::file::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC};
use super::quantize::{can_quantize, quantize};
use super::tensor_type::GgmlType;
use super::value::{Array, Value};
use crate::error::{Error, Result};

const VERSION: u32 = 3;

/// A tensor announced for writing: everything but its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufSpec {
    /// The name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// The shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// How the elements are stored.
    pub kind: GgmlType,
}

/// A GGUF file that is whole, on the disk, and not yet under its name.
///
/// It can be read back under [`path`](Self::path) before it is published.
/// Dropped before [`publish`](Self::publish), it disappears again.
#[derive(Debug)]
pub struct StagedGguf {
    target: PathBuf,
    temporary: PathBuf,
    bytes: u64,
    published: bool,
}

impl StagedGguf {
    /// Where the file is now.
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// The size of the file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives the file its name, in place of a file that may be there.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub fn publish(mut self) -> Result<()> {
        fs::rename(&self.temporary, &self.target)
            .map_err(|source| io_error(&self.target, source))?;
        self.published = true;
        Ok(())
    }
}

impl Drop for StagedGguf {
    fn drop(&mut self) {
        if !self.published
            && let Err(error) = fs::remove_file(&self.temporary)
        {
            log::warn!("{}: {error}", self.temporary.display());
        }
    }
}

/// Writes a GGUF file beside `target`, to be published when it has been looked at.
///
/// `values` is called once for each tensor, in order, so that no more than one need be in memory;
/// it returns the numbers in row-major order of the shape, which are packed here.
/// The pairs are written in the order given; `general.alignment` stays 32 and is not among them.
///
/// # Errors
/// - [`Error::NoQuantizer`] for a type that cannot be written, [`Error::BlockElements`] for rows
///   that are not whole blocks, [`Error::NotFinite`] for numbers that do not fit
/// - [`Error::DuplicateKey`], [`Error::DuplicateTensor`], [`Error::InvalidValue`] for an alignment
/// - [`Error::ValueCount`] when `values` returns another number than the shape has
/// - [`Error::Io`], and whatever `values` returns
///
/// # Examples
/// ```
/// use flametune_quant::gguf::{GgmlType, GgufFile, GgufSpec, Value, write_gguf};
///
/// # fn main() -> Result<(), flametune_quant::Error> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("tiny.gguf");
/// let pairs = [("general.architecture".to_owned(), Value::String("llama".to_owned()))];
/// let spec = GgufSpec { name: "t".to_owned(), shape: vec![1, 32], kind: GgmlType::Q8_0 };
/// let staged = write_gguf(&path, &pairs, &[spec], |_| Ok::<_, flametune_quant::Error>(vec![0.5; 32]))?;
/// assert!(!path.exists());
/// let read = GgufFile::open(staged.path())?.dequantize("t")?;
/// assert!((read[0] - 0.5).abs() < 1e-3);
/// staged.publish()?;
/// assert!(path.exists());
/// # Ok(())
/// # }
/// ```
pub fn write_gguf<E: From<Error>>(
    target: &Path,
    pairs: &[(String, Value)],
    tensors: &[GgufSpec],
    mut values: impl FnMut(&GgufSpec) -> Result<Vec<f32>, E>,
) -> Result<StagedGguf, E> {
    let layout = Layout::of(target, pairs, tensors)?;
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let temporary = target.with_file_name(format!(".{name}.partial"));
    let file = File::create(&temporary).map_err(|source| io_error(&temporary, source))?;
    // From here on the temporary file is removed when something fails.
    let staged = StagedGguf {
        target: target.to_owned(),
        temporary,
        bytes: layout.file_bytes,
        published: false,
    };
    let io = |source| io_error(&staged.temporary, source);
    let mut out = BufWriter::with_capacity(1 << 20, file);
    out.write_all(&layout.header).map_err(io)?;
    for spec in tensors {
        let elements: usize = spec.shape.iter().product();
        let numbers = values(spec)?;
        if numbers.len() != elements {
            let (tensor, got) = (spec.name.clone(), numbers.len());
            return Err(E::from(Error::ValueCount {
                tensor,
                expected: elements,
                got,
            }));
        }
        let packed = quantize(spec.kind, &numbers)?;
        out.write_all(&packed).map_err(io)?;
        pad(&mut out, packed.len()).map_err(io)?;
    }
    let file = out.into_inner().map_err(|error| io(error.into_error()))?;
    file.sync_all().map_err(io)?;
    Ok(staged)
}

fn io_error(path: &Path, source: io::Error) -> Error {
    Error::Io {
        path: path.to_owned(),
        source,
    }
}

/// Zeros up to the alignment behind `written` bytes.
fn pad(out: &mut impl Write, written: usize) -> io::Result<()> {
    let zeros = written.next_multiple_of(DEFAULT_ALIGNMENT) - written;
    out.write_all(&[0; DEFAULT_ALIGNMENT][..zeros])
}

/// Everything before the tensors' bytes, checked.
struct Layout {
    header: Vec<u8>,
    file_bytes: u64,
}

impl Layout {
    fn of(file: &Path, pairs: &[(String, Value)], tensors: &[GgufSpec]) -> Result<Self> {
        refuse_twice(pairs.iter().map(|(key, _)| key), |key| {
            Error::DuplicateKey {
                file: file.to_owned(),
                key,
            }
        })?;
        refuse_twice(tensors.iter().map(|spec| &spec.name), |tensor| {
            Error::DuplicateTensor {
                file: file.to_owned(),
                tensor,
            }
        })?;
        if let Some((key, value)) = pairs.iter().find(|(key, _)| key == ALIGNMENT_KEY) {
            return Err(Error::InvalidValue {
                file: file.to_owned(),
                key: key.clone(),
                expected: "left out, it is 32".to_owned(),
                got: value.to_string(),
            });
        }
        let mut header = MAGIC.to_vec();
        header.extend(VERSION.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend((pairs.len() as u64).to_le_bytes());
        for (key, value) in pairs {
            write_string(&mut header, key);
            header.extend(value.value_type().code().to_le_bytes());
            value.write(&mut header);
        }
        let mut offset = 0u64;
        for spec in tensors {
            let bytes = stored_bytes(file, spec)?;
            write_string(&mut header, &spec.name);
            let dims = u32::try_from(spec.shape.len()).unwrap_or(u32::MAX);
            header.extend(dims.to_le_bytes());
            for &dim in spec.shape.iter().rev() {
                header.extend((dim as u64).to_le_bytes());
            }
            header.extend(spec.kind.code().to_le_bytes());
            header.extend(offset.to_le_bytes());
            offset += bytes.next_multiple_of(DEFAULT_ALIGNMENT as u64);
        }
        header.resize(header.len().next_multiple_of(DEFAULT_ALIGNMENT), 0);
        let file_bytes = header.len() as u64 + offset;
        Ok(Self { header, file_bytes })
    }
}

fn refuse_twice<'a>(
    names: impl Iterator<Item = &'a String>,
    error: impl Fn(String) -> Error,
) -> Result<()> {
    let mut seen = std::collections::HashSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(error(name.clone()));
        }
    }
    Ok(())
}

/// The bytes of a tensor, where its type can be written and its rows are whole blocks.
fn stored_bytes(file: &Path, spec: &GgufSpec) -> Result<u64> {
    /// ggml's own limit.
    const MAX_DIMENSIONS: usize = 4;
    if !can_quantize(spec.kind) {
        return Err(Error::NoQuantizer { kind: spec.kind });
    }
    if spec.shape.len() > MAX_DIMENSIONS {
        return Err(Error::TooManyDimensions {
            file: file.to_owned(),
            tensor: spec.name.clone(),
            got: u32::try_from(spec.shape.len()).unwrap_or(u32::MAX),
            limit: 4,
        });
    }
    let (row, block) = (
        spec.shape.last().copied().unwrap_or(1),
        spec.kind.block_elements(),
    );
    if !row.is_multiple_of(block) {
        return Err(Error::PartialBlock {
            file: file.to_owned(),
            tensor: spec.name.clone(),
            kind: spec.kind,
            row,
            block,
        });
    }
    let elements = spec
        .shape
        .iter()
        .try_fold(1usize, |all, &dim| all.checked_mul(dim));
    let bytes = elements.and_then(|elements| spec.kind.bytes(elements));
    bytes
        .map(|bytes| bytes as u64)
        .ok_or_else(|| Error::SizeOverflow {
            file: file.to_owned(),
            tensor: spec.name.clone(),
            dims: spec.shape.iter().rev().map(|&dim| dim as u64).collect(),
        })
}

fn write_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

macro_rules! write_values {
    ($($number:ident)+) => {
        impl Value {
            /// Appends the value without its type.
            fn write(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$number(value) => out.extend(value.to_le_bytes()),)+
                    Self::Bool(value) => out.push(u8::from(*value)),
                    Self::String(text) => write_string(out, text),
                    Self::Array(array) => array.write(out),
                }
            }
        }

        impl Array {
            /// Appends type, number and elements.
            fn write(&self, out: &mut Vec<u8>) {
                out.extend(self.value_type().code().to_le_bytes());
                out.extend((self.len() as u64).to_le_bytes());
                match self {
                    $(Self::$number(items) => {
                        items.iter().for_each(|item| out.extend(item.to_le_bytes()));
                    })+
                    Self::Bool(items) => out.extend(items.iter().map(|&item| u8::from(item))),
                    Self::String(items) => items.iter().for_each(|item| write_string(out, item)),
                    Self::Array(items) => items.iter().for_each(|item| item.write(out)),
                }
            }
        }
    };
}
write_values!(U8 I8 U16 I16 U32 I32 F32 U64 I64 F64);
