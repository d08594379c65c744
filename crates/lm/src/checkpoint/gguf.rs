//! GGUF files as checkpoints: llama.cpp's names, layouts and metadata turned back into those of
//! Hugging Face.

mod architecture;
mod config;
mod export;
mod layout;
mod names;
mod rope;

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{DType, TensorData};
use flametune_quant::gguf::{GgufFile, GgufTensor, GgufVocabulary, can_dequantize};
use serde_json::Value;

pub use self::export::{GgufNames, GgufPart, GgufPlan, GgufSource, RowOrder};

use self::architecture::Architecture;
use self::layout::Layout;
use super::{TensorInfo, TensorSource};
use crate::error::{Error, Result};

/// A GGUF file seen as a Hugging Face checkpoint.
///
/// llama.cpp's converter renames tensors and changes some of them; all of it is undone here:
///
/// - the rows of Llama's query and key projections, which it stores as interleaved pairs, go back
///   to the two halves of a head that `rotate_half` expects
/// - Gemma's norm weights, which it stores plus one, lose the one
/// - GPT-2's `Conv1D` weights, which it transposes, are transposed back
/// - Llama 3's scaled RoPE frequencies, which it stores as a tensor of factors, become
///   `rope_parameters` again
///
/// Block-quantized tensors are dequantized as they are read.
///
/// # Source
/// - `convert_hf_to_gguf.py` of llama.cpp; `tensor_mapping.py` of PyPI `gguf` 0.19.0
/// - reference: transformers 5.23 `modeling_gguf_pytorch_utils.py`; golden `fixtures/gguf`
/// - differs: transformers leaves out RoPE scalings, soft caps and layer patterns, does not
///   recognise Gemma 1, and does not permute biases back
///
/// # Examples
/// ```no_run
/// use burn::tensor::DType;
/// use flametune_lm::{GgufCheckpoint, TensorSource};
///
/// let checkpoint = GgufCheckpoint::open("SmolLM2-135M-Instruct.Q4_1.gguf")?;
/// assert_eq!(checkpoint.config()["model_type"], "llama");
/// let q_proj = checkpoint.read("model.layers.0.self_attn.q_proj.weight", DType::F32)?;
/// assert_eq!(q_proj.shape().as_slice(), [576, 576]);
/// # Ok::<(), flametune_lm::Error>(())
/// ```
#[derive(Debug)]
pub struct GgufCheckpoint {
    file: GgufFile,
    config: Value,
    /// By Hugging Face name.
    tensors: BTreeMap<String, Mapped>,
}

/// A tensor of the file and how it differs from the checkpoint's.
#[derive(Debug)]
struct Mapped {
    gguf_name: String,
    shape: Vec<usize>,
    layout: Layout,
}

impl GgufCheckpoint {
    /// Opens a GGUF file.
    ///
    /// # Errors
    /// - [`Error::Quant`] when the file cannot be opened, is not valid, or lacks metadata
    /// - [`Error::UnsupportedArchitecture`] for an architecture that is not mapped
    /// - [`Error::UnsupportedOption`] for a split file, experts, and other things not implemented
    /// - [`Error::UnknownTensors`] for tensors that the architecture has no place for
    /// - [`Error::ShapeMismatch`] for projections whose rows are not the heads of the metadata
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::from_file(GgufFile::open(path)?)
    }

    /// Takes a file that is already open.
    ///
    /// # Errors
    /// As [`open`](Self::open)
    pub fn from_file(file: GgufFile) -> Result<Self> {
        refuse_split(&file)?;
        let architecture = Architecture::read(file.metadata())?;
        let config = config::hugging_face_config(&file, architecture)?;
        let tensors = map_tensors(&file, architecture)?;
        Ok(Self {
            file,
            config,
            tensors,
        })
    }

    /// The file itself.
    pub fn file(&self) -> &GgufFile {
        &self.file
    }

    /// What `config.json` would say of this model, in the form of transformers 5.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// The vocabulary; `None` when the file carries no tokenizer.
    ///
    /// # Errors
    /// [`Error::Quant`] when its parts contradict each other
    pub fn vocabulary(&self) -> Result<Option<GgufVocabulary>> {
        Ok(GgufVocabulary::read(self.file.metadata())?)
    }

    fn tensor(&self, name: &str) -> Option<(&Mapped, &GgufTensor)> {
        let mapped = self.tensors.get(name)?;
        Some((mapped, self.file.tensor(&mapped.gguf_name)?))
    }
}

impl TensorSource for GgufCheckpoint {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        let (mapped, tensor) = self.tensor(name)?;
        Some(TensorInfo {
            shape: mapped.shape.clone(),
            dtype: tensor.kind().name().to_owned(),
            bytes: tensor.bytes(),
            file: self.file.path().to_owned(),
        })
    }

    fn read(&self, name: &str, dtype: DType) -> Result<TensorData> {
        let Some((mapped, tensor)) = self.tensor(name) else {
            let file = self.file.path().to_owned();
            return Err(Error::MissingTensor {
                name: name.to_owned(),
                file,
            });
        };
        if !can_dequantize(tensor.kind()) {
            return Err(self.unsupported(name, tensor, dtype));
        }
        let bytes = self.file.tensor_bytes(&mapped.gguf_name)?;
        let values = layout::read(tensor, bytes, &mapped.layout, &mapped.shape, dtype)?;
        // The values are copied: the file's pages need not stand beside them.
        self.file.release(&mapped.gguf_name)?;
        values.ok_or_else(|| self.unsupported(name, tensor, dtype))
    }
}

impl GgufCheckpoint {
    fn unsupported(&self, name: &str, tensor: &GgufTensor, wanted: DType) -> Error {
        Error::UnsupportedConversion {
            tensor: name.to_owned(),
            file: self.file.path().to_owned(),
            stored: tensor.kind().name().to_owned(),
            wanted,
        }
    }
}

/// Files of several parts carry their number of parts.
fn refuse_split(file: &GgufFile) -> Result<()> {
    match file.metadata().get::<u32>("split.count")? {
        Some(parts) if parts > 1 => Err(Error::UnsupportedOption {
            field: "split.count".to_owned(),
            value: parts.to_string(),
            hint: "merge the parts into one file first".to_owned(),
        }),
        _ => Ok(()),
    }
}

fn map_tensors(file: &GgufFile, architecture: Architecture) -> Result<BTreeMap<String, Mapped>> {
    let heads = config::Heads::read(file, architecture)?;
    let layers = config::block_count(file, architecture)?;
    let mut tensors = BTreeMap::new();
    let mut unknown = Vec::new();
    for tensor in file.tensors() {
        if names::is_rope_factors(tensor.name()) {
            continue;
        }
        let Some(name) = names::hugging_face_name(architecture, tensor.name(), layers) else {
            unknown.push(tensor.name().to_owned());
            continue;
        };
        let layout = Layout::of(architecture, &name, tensor, heads, file.path())?;
        let shape = layout.shape(tensor.shape());
        let gguf_name = tensor.name().to_owned();
        tensors.insert(
            name,
            Mapped {
                gguf_name,
                shape,
                layout,
            },
        );
    }
    if unknown.is_empty() {
        return Ok(tensors);
    }
    unknown.sort_unstable();
    Err(Error::UnknownTensors {
        names: unknown,
        file: file.path().to_owned(),
    })
}

#[cfg(test)]
mod tests;
