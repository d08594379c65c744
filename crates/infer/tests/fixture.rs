//! Tensors of a golden file.

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::Dtype;

/// A file or folder under `fixtures/`.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fixtures")
        .join(name)
}

/// A safetensors file in memory.
pub(crate) struct Golden(Vec<u8>);

impl Golden {
    pub(crate) fn open(name: &str) -> Self {
        let path = path(name);
        Self(std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    }

    /// Rows of a matrix of numbers.
    pub(crate) fn floats(&self, name: &str) -> Vec<Vec<f32>> {
        let (bytes, columns) = self.tensor(name, Dtype::F32);
        let numbers: Vec<f32> = bytes
            .as_chunks()
            .0
            .iter()
            .map(|&bytes| f32::from_le_bytes(bytes))
            .collect();
        numbers.chunks(columns).map(<[f32]>::to_vec).collect()
    }

    /// Rows of a matrix of token ids.
    pub(crate) fn ids(&self, name: &str) -> Vec<Vec<u32>> {
        let (bytes, columns) = self.tensor(name, Dtype::I64);
        let ids: Vec<u32> = bytes
            .as_chunks()
            .0
            .iter()
            .map(|&bytes| u32::try_from(i64::from_le_bytes(bytes)).unwrap())
            .collect();
        ids.chunks(columns).map(<[u32]>::to_vec).collect()
    }

    /// Names of all tensors.
    pub(crate) fn names(&self) -> Vec<String> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        file.names().into_iter().map(str::to_owned).collect()
    }

    fn tensor(&self, name: &str, dtype: Dtype) -> (Vec<u8>, usize) {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(name).unwrap();
        assert_eq!(tensor.dtype(), dtype, "{name}");
        (tensor.data().to_vec(), *tensor.shape().last().unwrap())
    }
}
