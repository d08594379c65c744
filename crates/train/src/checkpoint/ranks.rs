//! The state of ranks that are handed out while a model learns, as a safetensors file.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use burn::tensor::{DType, TensorData};
use flametune_kernels::MappedFile;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::error::{Error, Result};

/// Writes tensors of f32.
pub(super) fn write(path: &Path, state: &BTreeMap<String, TensorData>) -> Result<()> {
    let failed = |error: safetensors::SafeTensorError| Error::Io {
        path: path.to_owned(),
        source: io::Error::other(error),
    };
    let mut views = Vec::with_capacity(state.len());
    for (name, data) in state {
        debug_assert_eq!(data.dtype(), DType::F32, "{name}");
        let view = TensorView::new(Dtype::F32, data.shape().to_vec(), data.as_bytes());
        views.push((name, view.map_err(failed)?));
    }
    safetensors::serialize_to_file(views, None, path).map_err(failed)
}

/// Reads what [`write`] wrote.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, TensorData>> {
    let bytes = MappedFile::open(path).map_err(|source| Error::Io {
        path: path.to_owned(),
        source,
    })?;
    let wrong = |reason: String| Error::Checkpoint {
        path: path.to_owned(),
        reason,
    };
    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| wrong(error.to_string()))?;
    let mut state = BTreeMap::new();
    for (name, tensor) in tensors.iter() {
        if tensor.dtype() != Dtype::F32 {
            let got = tensor.dtype();
            return Err(wrong(format!("{name} must be F32, got {got:?}")));
        }
        let (words, _) = tensor.data().as_chunks::<4>();
        let values: Vec<f32> = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
        let data = TensorData::new(values, tensor.shape().to_vec());
        state.insert(name.to_owned(), data);
    }
    Ok(state)
}
