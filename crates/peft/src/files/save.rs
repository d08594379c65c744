//! Writing an adapter.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use burn::tensor::{DType, TensorData};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::pair::PendingFiles;
use super::{
    BASE_WEIGHT, CONFIG_FILE, EMBEDDING_LAYER_NAMES, ENCODER_FILE, PREFIX, SHARED_PREFIX,
    WEIGHTS_FILE,
};
use crate::base;
use crate::config::PeftConfig;
use crate::error::{Error, Result};
use crate::prompt::PROMPT_EMBEDDINGS;
use crate::slots::{
    BaseRef, EmbeddingAdapter, NamedAdapter, PartRole, SharedTensor, SlotMethod, SlotModule,
    SlotRole, Slots,
};
use crate::targets::{TargetModules, compile};
use crate::tensors::{self, AdapterTensor};

/// The parameters of an adapter under the keys of PEFT's file.
///
/// # Errors
/// [`Error::UnknownAdapter`].
pub fn adapter_tensors<M: Slots>(model: &M, name: &str) -> Result<BTreeMap<String, TensorData>> {
    let config = model.adapters().config(name)?;
    let stores_base = names_embedding(config)?;
    let mut list = List {
        name,
        found: BTreeMap::new(),
        tied_heads: Vec::new(),
        tokens: None,
    };
    model.clone().visit_slots(&mut |slot| match slot.module {
        SlotModule::Linear(linear) => {
            if matches!(linear.base, BaseRef::Tied(_)) {
                list.tied_heads.push(slot.path.to_owned());
            }
            for part in linear.adapters.iter_mut().filter(|part| part.name == name) {
                list.shared(part.method.shared());
            }
            let adapted = list.parts(slot.path, linear.adapters);
            if adapted && slot.role == SlotRole::Head && stores_base(slot.path) {
                let weight = base::dense_weight(linear.base.get());
                list.add(slot.path, BASE_WEIGHT, weight.into_data());
            }
        }
        SlotModule::Embedding(table) => {
            if let Some(tokens) = table.tokens(name) {
                list.tokens = tensors::list(tokens, tokens.tensor_names()).pop();
            }
            if list.parts(slot.path, &table.adapters) && stores_base(slot.path) {
                list.add(slot.path, BASE_WEIGHT, table.weight.val().into_data());
            }
        }
        SlotModule::Norm(norm) => {
            list.parts(slot.path, &norm.adapters);
        }
        SlotModule::Prompt(prompt) => {
            for part in prompt.adapters.iter().filter(|part| part.name == name) {
                let table = part.method.embeddings().into_data();
                list.found.insert(PROMPT_EMBEDDINGS.to_owned(), table);
            }
        }
        SlotModule::Sublayer(sublayer) => {
            list.parts(slot.path, sublayer.adapters);
        }
        SlotModule::Vector(_) => {}
    });
    // PEFT lists trained rows under every module that uses them.
    if let Some(tokens) = list.tokens.take() {
        for path in std::mem::take(&mut list.tied_heads) {
            list.add(&path, tokens.key, tokens.data());
        }
    }
    Ok(list.found)
}

struct List<'a> {
    name: &'a str,
    found: BTreeMap<String, TensorData>,
    /// Heads that multiply with the matrix of the embedding.
    tied_heads: Vec<String>,
    /// Trained rows of the embedding.
    tokens: Option<AdapterTensor>,
}

impl List<'_> {
    fn add(&mut self, path: &str, key: &str, data: TensorData) {
        self.found.insert(format!("{PREFIX}{path}.{key}"), data);
    }

    fn shared(&mut self, tensors: Vec<SharedTensor<'_>>) {
        for SharedTensor { key, tensor } in tensors {
            self.found
                .entry(format!("{SHARED_PREFIX}{key}"))
                .or_insert_with(|| tensor.clone().into_data());
        }
    }

    /// Lists the parts of the adapter in one slot; returns whether one adds to the base.
    fn parts<M: SlotMethod>(&mut self, path: &str, parts: &[NamedAdapter<M>]) -> bool {
        let mut adapted = false;
        for part in parts.iter().filter(|part| part.name == self.name) {
            adapted |= part.method.info().role == PartRole::Adapter;
            let method = part.method.stored();
            for tensor in tensors::list(&method, method.tensor_names()) {
                let key = format!("{PREFIX}{path}.{}", tensor.key);
                self.found.insert(key, tensor.data());
            }
        }
        adapted
    }
}

/// Whether PEFT stores the base of embeddings and heads with an adapter: when one of them is named
/// literally, or matched by the pattern.
fn names_embedding(config: &PeftConfig) -> Result<impl Fn(&str) -> bool + use<>> {
    let is_embedding = |path: &str| {
        let end = path.rsplit('.').next().unwrap_or(path);
        EMBEDDING_LAYER_NAMES.contains(&end)
    };
    let method = config.method();
    let targets = method.targeting().target_modules;
    let (literal, pattern) = match targets.filter(|_| method.stores_base()) {
        Some(TargetModules::List(names)) => (
            names
                .iter()
                .any(|name| EMBEDDING_LAYER_NAMES.contains(&name.as_str())),
            None,
        ),
        Some(TargetModules::Regex(pattern)) => {
            let regex = compile("target_modules", pattern, &format!("^(?:{pattern})$"))?;
            (false, Some(regex))
        }
        Some(TargetModules::AllLinear) | None => (false, None),
    };
    Ok(move |path: &str| {
        literal
            || pattern
                .as_ref()
                .is_some_and(|p| is_embedding(path) && p.is_match(path))
    })
}

/// Writes `adapter_config.json` and `adapter_model.safetensors` into `folder`, which is created if
/// need be.
///
/// Tensors keep their dtypes. The files appear together, or the folder stays as it was.
///
/// Of an adapter with virtual tokens that come out of an encoder a third file,
/// `flametune_encoder.safetensors`, keeps the encoder for [`resume_adapter`](crate::resume_adapter).
///
/// # Errors
/// [`Error::UnknownAdapter`]; [`Error::Io`] when a file cannot be written.
pub fn save_adapter<M: Slots>(model: &M, name: &str, folder: impl AsRef<Path>) -> Result<()> {
    let folder = folder.as_ref();
    let mut config = model.adapters().config(name)?.as_ref().clone();
    // As PEFT: an adapter on disk is for use, and training it again is asked for explicitly.
    config.common_mut().inference_mode = true;
    let tensors = adapter_tensors(model, name)?;
    let mut encoder = BTreeMap::new();
    model.clone().visit_slots(&mut |slot| {
        if let SlotModule::Prompt(prompt) = slot.module {
            for part in prompt.adapters.iter().filter(|part| part.name == name) {
                encoder.append(&mut part.method.encoder.parts());
            }
        }
    });
    write(folder, &config, &tensors, &encoder)
}

/// Writes the files; that of the encoder only where there is one.
pub(super) fn write(
    folder: &Path,
    config: &PeftConfig,
    tensors: &BTreeMap<String, TensorData>,
    encoder: &BTreeMap<String, TensorData>,
) -> Result<()> {
    let weights = encode(&folder.join(WEIGHTS_FILE), tensors)?;
    let text = format!("{:#}", config.to_json());
    fs::create_dir_all(folder).map_err(|source| Error::Io {
        path: folder.to_owned(),
        source,
    })?;
    let beside = folder.join(ENCODER_FILE);
    if encoder.is_empty() && beside.exists() {
        // It would belong to an adapter that is there no longer.
        fs::remove_file(&beside).map_err(|source| Error::Io {
            path: beside.clone(),
            source,
        })?;
    }
    let mut files = PendingFiles::default();
    if !encoder.is_empty() {
        let bytes = encode(&beside, encoder)?;
        files.write(beside, &bytes)?;
    }
    files.write(folder.join(WEIGHTS_FILE), &weights)?;
    files.write(folder.join(CONFIG_FILE), text.as_bytes())?;
    files.publish(folder)
}

fn encode(file: &Path, tensors: &BTreeMap<String, TensorData>) -> Result<Vec<u8>> {
    let invalid = |source| Error::InvalidSafetensors {
        file: file.to_owned(),
        source,
    };
    let mut views = Vec::with_capacity(tensors.len());
    for (name, data) in tensors {
        let Some(dtype) = stored_dtype(data.dtype()) else {
            return Err(Error::UnsupportedDtype {
                tensor: name.clone(),
                file: file.to_owned(),
                dtype: data.dtype().name().to_owned(),
            });
        };
        let view =
            TensorView::new(dtype, data.shape().to_vec(), data.as_bytes()).map_err(invalid)?;
        views.push((name.as_str(), view));
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views, Some(metadata)).map_err(invalid)
}

fn stored_dtype(dtype: DType) -> Option<Dtype> {
    match dtype {
        DType::F32 => Some(Dtype::F32),
        DType::F16 => Some(Dtype::F16),
        DType::BF16 => Some(Dtype::BF16),
        _ => None,
    }
}
