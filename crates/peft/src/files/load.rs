//! Reading an adapter.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Tensor, TensorData};
use safetensors::{Dtype, SafeTensors};

use super::{BASE_WEIGHT, CONFIG_FILE, ENCODER_FILE, PREFIX, SHARED_PREFIX, WEIGHTS_FILE};
use crate::base;
use crate::config::PeftConfig;
use crate::error::{Error, Result};
use crate::inject::{each_named, place, remove};
use crate::lora::{InitLoraWeights, quantize_as_loftq};
use crate::prompt::{PROMPT_EMBEDDINGS, PromptMethod};
use crate::slots::{
    BaseRef, EmbeddingAdapter, LinearMethod, NamedAdapter, SharedTensor, SlotMethod, SlotModule,
    Slots,
};
use crate::tensors::{self, AdapterTensor};

pub(super) fn read_file(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|source| Error::Io {
        path: path.to_owned(),
        source,
    })
}

/// Reads the configuration of the adapter in `folder`.
///
/// # Errors
/// [`Error::Io`], [`Error::InvalidJson`], [`Error::UnknownPeftType`], and those of
/// [`PeftConfig::validate`].
pub fn read_config(folder: impl AsRef<Path>) -> Result<PeftConfig> {
    let file = folder.as_ref().join(CONFIG_FILE);
    let value =
        serde_json::from_slice(&read_file(&file)?).map_err(|source| Error::InvalidJson {
            file: file.clone(),
            source,
        })?;
    let config = PeftConfig::from_json(value, &file)?;
    config.validate()?;
    Ok(config)
}

/// Loads the adapter in `folder` into a model under the name `name`, frozen.
///
/// Tensors keep their dtypes. Train it again with [`set_trainable`](crate::set_trainable).
///
/// An adapter that LoftQ began belongs to a base that was quantized for it: dense layers under it are
/// quantized in the same way again, and ones that are quantized already are taken as they are.
///
/// # Errors
/// - those of [`read_config`] and [`inject`](crate::inject)
/// - [`Error::InvalidSafetensors`] for a broken or truncated file
/// - [`Error::MissingTensor`], [`Error::UnexpectedTensors`], [`Error::ShapeMismatch`],
///   [`Error::UnsupportedDtype`], [`Error::NotFinite`] for its tensors
/// - [`Error::TiedTensors`] when trained rows differ under the modules that share them
/// - [`Error::OtherBase`] when the file carries base weights other than the model's
///
/// The model's adapters are then as they were.
pub fn load_adapter<M: Slots>(model: &mut M, name: &str, folder: impl AsRef<Path>) -> Result<()> {
    load(model, name, folder.as_ref(), None)?;
    each_named(model, name, false);
    Ok(())
}

/// Loads the adapter in `folder` to train it on.
///
/// As [`load_adapter`], but its parameters are trained. Virtual tokens that came out of an encoder do
/// so again where [`save_adapter`](crate::save_adapter) left it beside the adapter; otherwise the table
/// is trained as it is.
///
/// # Errors
/// Those of [`load_adapter`]; [`Error::ForeignEncoder`] when the encoder makes another table than the
/// one in the adapter's file.
pub fn resume_adapter<M: Slots>(model: &mut M, name: &str, folder: impl AsRef<Path>) -> Result<()> {
    let folder = folder.as_ref();
    let file = folder.join(ENCODER_FILE);
    let encoder = match file.is_file() {
        true => Some(Stored::read(&read_file(&file)?, file)?),
        false => None,
    };
    load(model, name, folder, encoder)?;
    each_named(model, name, true);
    Ok(())
}

fn load<M: Slots>(
    model: &mut M,
    name: &str,
    folder: &Path,
    mut encoder: Option<Stored>,
) -> Result<()> {
    let mut config = read_config(folder)?;
    let file = folder.join(WEIGHTS_FILE);
    let bytes = read_file(&file)?;
    let mut stored = Stored::read(&bytes, file)?;
    if config.has_virtual_tokens() {
        // Without its encoder an adapter is the table that it made.
        config.common_mut().inference_mode = encoder.is_none();
        stored.check_rows(config.num_virtual_tokens())?;
    }
    stored.check_rank(config.method().largest_rank())?;
    if let Some(encoder) = &encoder {
        encoder.check_rank(config.encoder_size())?;
    }
    place(model, name, &config, 0)?;
    let filled = fill(model, name, &mut stored, encoder.as_mut())
        .and_then(|()| stored.finish())
        .and_then(|()| encoder.map_or(Ok(()), Stored::finish))
        .and_then(|()| match &config {
            PeftConfig::Lora(lora) if lora.init_lora_weights == InitLoraWeights::Loftq => {
                quantize_as_loftq(model, name, lora)
            }
            _ => Ok(()),
        });
    if let Err(error) = filled {
        remove(model, name)?;
        return Err(error);
    }
    Ok(())
}

fn fill<M: Slots>(
    model: &mut M,
    name: &str,
    stored: &mut Stored,
    mut encoder: Option<&mut Stored>,
) -> Result<()> {
    let mut outcome = Ok(());
    let mut tied_heads = Vec::new();
    let mut tokens = None;
    model.visit_slots(&mut |slot| {
        if outcome.is_err() {
            return;
        }
        let path = slot.path;
        outcome = match slot.module {
            SlotModule::Linear(linear) => {
                if matches!(linear.base, BaseRef::Tied(_)) {
                    tied_heads.push(path.to_owned());
                }
                let base = linear.base.get();
                stored
                    .share(name, linear.adapters)
                    .and_then(|()| {
                        stored.fill(path, name, linear.adapters, |method| method.refresh(base))
                    })
                    .and_then(|()| stored.check_base(path, || base::dense_weight(base).into_data()))
            }
            SlotModule::Embedding(table) => {
                let weight = table.weight.val();
                let filled = stored
                    .fill(path, name, &mut table.adapters, |method| {
                        method.refresh(&weight)
                    })
                    .and_then(|()| stored.check_base(path, || weight.clone().into_data()));
                if let Some(found) = table.tokens(name) {
                    tokens = tensors::list(found, found.tensor_names()).pop();
                }
                filled
            }
            SlotModule::Norm(norm) => stored.fill(path, name, &mut norm.adapters, |_| ()),
            SlotModule::Sublayer(sublayer) => stored.fill(path, name, sublayer.adapters, |_| ()),
            SlotModule::Prompt(prompt) => {
                stored.fill_prompt(name, prompt.adapters, encoder.as_deref_mut())
            }
            SlotModule::Vector(_) => Ok(()),
        };
    });
    outcome?;
    match tokens {
        Some(tokens) => tied_heads
            .iter()
            .try_for_each(|path| stored.check_tokens(path, &tokens)),
        None => Ok(()),
    }
}

/// The tensors of a file that have not found their place yet.
pub(super) struct Stored {
    file: PathBuf,
    pub(super) tensors: BTreeMap<String, TensorData>,
    /// Those that all parts have in common.
    shared: BTreeMap<&'static str, Tensor<2>>,
}

impl Stored {
    pub(super) fn read(bytes: &[u8], file: PathBuf) -> Result<Self> {
        let parsed =
            SafeTensors::deserialize(bytes).map_err(|source| Error::InvalidSafetensors {
                file: file.clone(),
                source,
            })?;
        let mut tensors = BTreeMap::new();
        for (name, view) in parsed.iter() {
            let Some(dtype) = dtype(view.dtype()) else {
                return Err(Error::UnsupportedDtype {
                    tensor: name.to_owned(),
                    file,
                    dtype: view.dtype().to_string(),
                });
            };
            let data = TensorData::from_bytes_vec(view.data().to_vec(), view.shape(), dtype);
            if let Some((index, value)) = first_not_finite(&data) {
                return Err(Error::NotFinite {
                    tensor: name.to_owned(),
                    file,
                    index,
                    value,
                });
            }
            tensors.insert(name.to_owned(), data);
        }
        Ok(Self {
            file,
            tensors,
            shared: BTreeMap::new(),
        })
    }

    /// Takes a tensor of the given shape.
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<TensorData> {
        let Some(data) = self.tensors.remove(name) else {
            return Err(Error::MissingTensor {
                name: name.to_owned(),
                file: self.file.clone(),
            });
        };
        if data.shape()[..] != *shape {
            return Err(Error::ShapeMismatch {
                tensor: name.to_owned(),
                file: self.file.clone(),
                expected: shape.to_vec(),
                got: data.shape().to_vec(),
            });
        }
        Ok(data)
    }

    /// Fills the parts of an adapter in one slot, then lets `refresh` recompute what depends on
    /// the parameters.
    fn fill<M: SlotMethod>(
        &mut self,
        path: &str,
        name: &str,
        parts: &mut [NamedAdapter<M>],
        refresh: impl Fn(&mut M),
    ) -> Result<()> {
        for part in parts.iter_mut().filter(|part| part.name == name) {
            let names = part.method.tensor_names();
            part.method = tensors::fill(part.method.clone(), names, |key, shape| {
                self.take(&format!("{PREFIX}{path}.{key}"), shape)
            })?;
            refresh(&mut part.method);
        }
        Ok(())
    }

    /// Gives the parts of an adapter in one slot the tensors that all parts have in common.
    fn share(&mut self, name: &str, parts: &mut [NamedAdapter<LinearMethod>]) -> Result<()> {
        for part in parts.iter_mut().filter(|part| part.name == name) {
            for SharedTensor { key, tensor } in part.method.shared() {
                let whole = match self.shared.get(key) {
                    Some(whole) => whole.clone(),
                    None => {
                        let data = self.take(&format!("{SHARED_PREFIX}{key}"), &tensor.dims())?;
                        let place = (&tensor.device(), data.dtype());
                        Tensor::from_data(data, place)
                    }
                };
                self.shared.insert(key, whole.clone());
                *tensor = whole.to_device(&tensor.device());
            }
        }
        Ok(())
    }

    /// Compares the trained rows under a head that uses them with those of the embedding.
    fn check_tokens(&mut self, path: &str, tokens: &AdapterTensor) -> Result<()> {
        let name = format!("{PREFIX}{path}.{}", tokens.key);
        if self.tensors.contains_key(&name) && self.take(&name, &tokens.shape)? != tokens.data() {
            return Err(Error::TiedTensors {
                tensor: name,
                file: self.file.clone(),
            });
        }
        Ok(())
    }

    /// Checks that some tensor is as large as the configuration says before room is made for it.
    fn check_rank(&self, r: usize) -> Result<()> {
        let dims = self.tensors.values().flat_map(|data| data.shape().to_vec());
        match dims.max().unwrap_or(0) {
            largest if r > largest => Err(Error::InvalidConfig {
                field: "r",
                reason: format!(
                    "must not exceed {largest}, the largest dimension in {}, got {r}",
                    self.file.display()
                ),
            }),
            _ => Ok(()),
        }
    }

    /// Checks the number of virtual tokens before room is made for them.
    fn check_rows(&self, rows: usize) -> Result<()> {
        match self
            .tensors
            .get(PROMPT_EMBEDDINGS)
            .map(|data| data.shape().to_vec())
        {
            Some(shape) if shape.len() == 2 && shape[0] != rows => Err(Error::ShapeMismatch {
                tensor: PROMPT_EMBEDDINGS.to_owned(),
                file: self.file.clone(),
                expected: vec![rows, shape[1]],
                got: shape,
            }),
            Some(_) => Ok(()),
            None => Err(Error::MissingTensor {
                name: PROMPT_EMBEDDINGS.to_owned(),
                file: self.file.clone(),
            }),
        }
    }

    /// Fills the table of virtual tokens, or the encoder that makes it.
    fn fill_prompt(
        &mut self,
        name: &str,
        parts: &mut [NamedAdapter<PromptMethod>],
        mut encoder: Option<&mut Self>,
    ) -> Result<()> {
        for part in parts.iter_mut().filter(|part| part.name == name) {
            let shape = part.method.embeddings().dims();
            let data = self.take(PROMPT_EMBEDDINGS, &shape)?;
            let Some(encoder) = encoder.as_deref_mut() else {
                let place = (&part.method.embeddings().device(), data.dtype());
                part.method.set_embeddings(Tensor::from_data(data, place));
                continue;
            };
            let own = part.method.encoder.clone();
            part.method.encoder = own.with_parts(|path, shape| encoder.take(path, shape))?;
            let made = part.method.embeddings().into_data();
            let far = |(a, b): (f64, f64)| (a - b).abs() > 1e-3 * (1.0 + b.abs());
            if made.iter::<f64>().zip(data.iter::<f64>()).any(far) {
                let file = encoder.file.clone();
                return Err(Error::ForeignEncoder { file });
            }
        }
        Ok(())
    }

    /// Compares the base weight that a file may carry with the model's.
    fn check_base(&mut self, path: &str, weight: impl FnOnce() -> TensorData) -> Result<()> {
        let name = format!("{PREFIX}{path}.{BASE_WEIGHT}");
        if !self.tensors.contains_key(&name) {
            return Ok(());
        }
        let own = weight();
        let data = self.take(&name, &own.shape().to_vec())?;
        if data.convert_dtype(own.dtype()) != own {
            return Err(Error::OtherBase {
                tensor: name,
                file: self.file.clone(),
            });
        }
        Ok(())
    }

    /// Checks that nothing is left.
    fn finish(self) -> Result<()> {
        if self.tensors.is_empty() {
            return Ok(());
        }
        Err(Error::UnexpectedTensors {
            names: self.tensors.into_keys().collect(),
            file: self.file,
        })
    }
}

fn dtype(stored: Dtype) -> Option<DType> {
    match stored {
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        _ => None,
    }
}

pub(super) fn first_not_finite(data: &TensorData) -> Option<(usize, f64)> {
    data.iter::<f64>()
        .enumerate()
        .find(|(_, value)| !value.is_finite())
}
