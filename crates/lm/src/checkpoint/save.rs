//! Writing safetensors checkpoints in the Hugging Face layout.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use ::safetensors::Dtype;
use ::safetensors::tensor::TensorInfo as HeaderEntry;
use burn::tensor::{DType, TensorData};
use serde_json::{Map, Value, json};

use super::dtype::safetensors_dtype;
use super::header::{HeaderError, LENGTH_BYTES, METADATA_KEY, byte_count};
use super::partial::PartialFile;
use super::safetensors::{INDEX_FILE, SINGLE_FILE};
use crate::error::{Error, Result};

/// A tensor announced for saving: everything but its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// The name, as Hugging Face spells it.
    pub name: String,
    /// The shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// The element type, as it will be stored.
    pub dtype: DType,
}

/// What [`save_safetensors`] wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedCheckpoint {
    /// The files, the index last when there is one.
    pub files: Vec<PathBuf>,
    /// Bytes of all tensors together, headers not counted.
    pub tensor_bytes: usize,
}

/// Writes tensors into `folder`, which is created if need be, in the Hugging Face layout.
///
/// What fits into `max_shard_bytes` becomes one `model.safetensors`. More becomes
/// `model-00001-of-0000N.safetensors` and so on, with `model.safetensors.index.json`; tensors fill
/// the shards in the order of `tensors`, and one larger than the limit gets a shard of its own.
/// `metadata` goes into every header; `format = pt`, which Python asks for, is added to it.
///
/// `data` is called once for each tensor, in the order in which they are written, so that no more
/// than one tensor need be in memory.
///
/// All files are written under temporary names, flushed to the disk and renamed when the last of
/// them is whole: whatever fails before, including `data`, leaves the folder as it was. Weight
/// files of an earlier checkpoint in the folder are removed at the very end.
///
/// # Errors
/// - [`Error::UnsupportedSave`] for an element type that the format does not know
/// - [`Error::InvalidSafetensors`] for two tensors of the same name, a reserved name, or a shape
///   too large to count
/// - [`Error::AnnouncedOtherwise`] when `data` returns another shape or type than announced
/// - [`Error::Io`] when a file cannot be written
/// - whatever `data` returns
pub fn save_safetensors(
    folder: impl AsRef<Path>,
    tensors: &[TensorSpec],
    max_shard_bytes: usize,
    metadata: &BTreeMap<String, String>,
    mut data: impl FnMut(&TensorSpec) -> Result<TensorData>,
) -> Result<SavedCheckpoint> {
    let folder = folder.as_ref();
    let mut metadata = metadata.clone();
    metadata
        .entry("format".to_owned())
        .or_insert_with(|| "pt".to_owned());

    let planned = plan(folder, tensors)?;
    let tensor_bytes = planned.iter().map(|tensor| tensor.bytes).sum();
    let shards = split(planned, max_shard_bytes);
    let names = shard_names(shards.len());
    let index = (shards.len() > 1).then(|| index_json(&shards, &names, tensor_bytes));

    fs::create_dir_all(folder).map_err(|source| Error::Io {
        path: folder.to_owned(),
        source,
    })?;
    let mut written = Vec::with_capacity(names.len() + 1);
    for (shard, name) in shards.iter().zip(&names) {
        written.push(write_shard(
            &folder.join(name),
            shard,
            &metadata,
            &mut data,
        )?);
    }
    if let Some(index) = index {
        let mut file = PartialFile::create(folder.join(INDEX_FILE))?;
        file.write(format!("{index:#}\n").as_bytes())?;
        written.push(file.finish()?);
    }

    let files: Vec<_> = written
        .iter()
        .map(|file| file.target().to_owned())
        .collect();
    for file in written {
        file.publish()?;
    }
    remove_earlier(folder, &files)?;
    sync_folder(folder)?;
    Ok(SavedCheckpoint {
        files,
        tensor_bytes,
    })
}

/// A tensor whose size and stored type are known.
struct Planned<'a> {
    spec: &'a TensorSpec,
    dtype: Dtype,
    bytes: usize,
}

/// Checks the announced tensors; the sum of their sizes can be counted afterwards.
fn plan<'a>(folder: &Path, tensors: &'a [TensorSpec]) -> Result<Vec<Planned<'a>>> {
    let invalid = |source| Error::InvalidSafetensors {
        file: folder.join(SINGLE_FILE),
        source,
    };
    let mut names = HashSet::with_capacity(tensors.len());
    let mut total = 0_usize;
    let mut planned = Vec::with_capacity(tensors.len());
    for spec in tensors {
        let tensor = spec.name.clone();
        if tensor == METADATA_KEY {
            return Err(invalid(HeaderError::ReservedName { tensor }));
        }
        if !names.insert(spec.name.as_str()) {
            return Err(invalid(HeaderError::RepeatedTensor { tensor }));
        }
        let Some(dtype) = safetensors_dtype(spec.dtype) else {
            return Err(Error::UnsupportedSave {
                tensor,
                dtype: spec.dtype,
            });
        };
        let counted = byte_count(&spec.shape, dtype)
            .and_then(|bytes| Some((bytes, total.checked_add(bytes)?)));
        let Some((bytes, sum)) = counted else {
            let shape = spec.shape.clone();
            return Err(invalid(HeaderError::ImpossibleShape {
                tensor,
                shape,
                dtype,
            }));
        };
        total = sum;
        planned.push(Planned { spec, dtype, bytes });
    }
    Ok(planned)
}

/// Fills shards in the given order, as `huggingface_hub` does; always at least one.
fn split(planned: Vec<Planned<'_>>, max_shard_bytes: usize) -> Vec<Vec<Planned<'_>>> {
    let mut shards = Vec::new();
    let (mut current, mut filled) = (Vec::new(), 0_usize);
    for tensor in planned {
        if tensor.bytes > max_shard_bytes {
            shards.push(vec![tensor]);
            continue;
        }
        if filled + tensor.bytes > max_shard_bytes {
            shards.push(std::mem::take(&mut current));
            filled = 0;
        }
        filled += tensor.bytes;
        current.push(tensor);
    }
    if !current.is_empty() || shards.is_empty() {
        shards.push(current);
    }
    shards
}

fn shard_names(shards: usize) -> Vec<String> {
    match shards {
        1 => vec![SINGLE_FILE.to_owned()],
        _ => (1..=shards)
            .map(|i| format!("model-{i:05}-of-{shards:05}.safetensors"))
            .collect(),
    }
}

fn index_json(shards: &[Vec<Planned<'_>>], names: &[String], total_size: usize) -> Value {
    let weight_map: BTreeMap<&str, &str> = shards
        .iter()
        .zip(names)
        .flat_map(|(shard, file)| shard.iter().map(|t| (t.spec.name.as_str(), file.as_str())))
        .collect();
    json!({ "metadata": { "total_size": total_size }, "weight_map": weight_map })
}

/// Writes one file under its temporary name, tensors in the order of the reference
/// implementation: by descending element size, then by name.
fn write_shard(
    path: &Path,
    shard: &[Planned<'_>],
    metadata: &BTreeMap<String, String>,
    data: &mut impl FnMut(&TensorSpec) -> Result<TensorData>,
) -> Result<PartialFile> {
    let mut order: Vec<_> = shard.iter().collect();
    order.sort_by(|a, b| {
        b.dtype
            .cmp(&a.dtype)
            .then_with(|| a.spec.name.cmp(&b.spec.name))
    });

    let mut file = PartialFile::create(path.to_owned())?;
    file.write(&header_bytes(&order, metadata))?;
    for tensor in order {
        let values = data(tensor.spec)?;
        let got = TensorSpec {
            name: tensor.spec.name.clone(),
            shape: values.shape().to_vec(),
            dtype: values.dtype(),
        };
        if got != *tensor.spec {
            let announced = Box::new(tensor.spec.clone());
            return Err(Error::AnnouncedOtherwise {
                announced,
                got: Box::new(got),
            });
        }
        file.write(values.as_bytes())?;
    }
    file.finish()
}

/// The header with its length, padded with spaces so that the data begin at a multiple of eight.
fn header_bytes(order: &[&Planned<'_>], metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let mut entries = Map::new();
    entries.insert(METADATA_KEY.to_owned(), json!(metadata));
    let mut begin = 0;
    for tensor in order {
        let end = begin + tensor.bytes;
        let entry = HeaderEntry {
            dtype: tensor.dtype,
            shape: tensor.spec.shape.clone(),
            data_offsets: (begin, end),
        };
        entries.insert(tensor.spec.name.clone(), json!(entry));
        begin = end;
    }
    let mut text = Value::Object(entries).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(LENGTH_BYTES), b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut text);
    bytes
}

/// Removes weight files in the Hugging Face layout that are not among `kept`.
fn remove_earlier(folder: &Path, kept: &[PathBuf]) -> Result<()> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { path, source }
    };
    for entry in fs::read_dir(folder).map_err(io(folder))? {
        let path = entry.map_err(io(folder))?.path();
        let ours = path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(is_weight_file);
        if ours && !kept.contains(&path) {
            fs::remove_file(&path).map_err(io(&path))?;
        }
    }
    Ok(())
}

/// `model.safetensors`, its index, or `model-00001-of-00002.safetensors`.
fn is_weight_file(name: &str) -> bool {
    let numbers = name
        .strip_prefix("model-")
        .and_then(|rest| rest.strip_suffix(".safetensors"));
    let is_shard = numbers
        .and_then(|numbers| numbers.split_once("-of-"))
        .is_some_and(|pair| {
            [pair.0, pair.1]
                .iter()
                .all(|n| n.len() >= 5 && n.bytes().all(|b| b.is_ascii_digit()))
        });
    is_shard || name == SINGLE_FILE || name == INDEX_FILE
}

/// Makes the renames themselves last, where the platform can.
fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        fs::File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|source| Error::Io {
                path: folder.to_owned(),
                source,
            })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
