//! A head with one output: a value, or a reward.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};
use flametune_data::Tokenizer;
use safetensors::tensor::{Dtype, SafeTensors, View};
use xxhash_rust::xxh3::Xxh3;

use crate::error::{Error, Result};
use crate::host::numbers;

/// The file of a head, beside the files of its adapter.
pub const HEAD_FILE: &str = "value_head.safetensors";

const WEIGHT: &str = "v_head.summary.weight";
const BIAS: &str = "v_head.summary.bias";

/// The key of the tokenizer's digest in the file's metadata.
const TOKENIZER: &str = "tokenizer_xxh3";

/// `w·h + b` of a hidden state: what a state is worth, or how good an answer is.
///
/// It shares the trunk, and everything below, with the language model.
///
/// # Source
/// - the file is that of TRL's and LLaMA-Factory's models with value heads
#[derive(Module, Debug)]
pub struct ScalarHead {
    /// `[1, d_model]`, f32.
    pub weight: Param<Tensor<2>>,
    /// `[1]`, f32.
    pub bias: Param<Tensor<1>>,
}

impl ScalarHead {
    /// A head that says 0 until it is trained.
    #[must_use]
    pub fn zeros(d_model: usize, device: &Device) -> Self {
        Self {
            weight: Param::from_tensor(Tensor::zeros([1, d_model], (device, DType::F32))),
            bias: Param::from_tensor(Tensor::zeros([1], (device, DType::F32))),
        }
    }

    /// The width of hidden states.
    pub fn d_model(&self) -> usize {
        self.weight.val().dims()[1]
    }

    /// The head's output at each state.
    ///
    /// # Shapes
    /// - `hidden`: `[states, d_model]`; returns `[states]`, f32
    pub fn forward(&self, hidden: Tensor<2>) -> Tensor<1> {
        let hidden = hidden.cast(DType::F32);
        let scores = hidden.matmul(self.weight.val().transpose());
        scores.squeeze_dim::<1>(1) + self.bias.val()
    }

    /// Writes the head into `folder`; `tokenizer` is the digest of the tokenizer it is for.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, folder: &Path, tokenizer: Option<&str>) -> Result<()> {
        let tensors = [
            (WEIGHT, Numbers::new(&self.weight.val())),
            (BIAS, Numbers::new(&self.bias.val())),
        ];
        let metadata = tokenizer.map(|digest| {
            HashMap::from([
                ("format".to_owned(), "pt".to_owned()),
                (TOKENIZER.to_owned(), digest.to_owned()),
            ])
        });
        let path = folder.join(HEAD_FILE);
        write_atomically(&path, |to| {
            safetensors::serialize_to_file(tensors, metadata.clone(), to).map_err(io::Error::other)
        })
    }

    /// Reads the head of `folder` for a model of width `d_model` and a tokenizer.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::File`] naming the file; [`Error::TokenizerMismatch`] when the file
    /// names another tokenizer.
    pub fn load(
        folder: &Path,
        d_model: usize,
        tokenizer: Option<&str>,
        device: &Device,
    ) -> Result<Self> {
        let path = folder.join(HEAD_FILE);
        let bytes = fs::read(&path).map_err(|source| Error::Io {
            path: path.clone(),
            source,
        })?;
        let wrong = |reason: String| Error::File {
            path: path.clone(),
            reason,
        };
        let (_, header) =
            SafeTensors::read_metadata(&bytes).map_err(|error| wrong(error.to_string()))?;
        let stored = header.metadata().as_ref();
        let stored = stored.and_then(|fields| fields.get(TOKENIZER));
        if let (Some(got), Some(expected)) = (stored, tokenizer)
            && got != expected
        {
            return Err(Error::TokenizerMismatch {
                path,
                expected: expected.to_owned(),
                got: got.clone(),
            });
        }
        let file = SafeTensors::deserialize(&bytes).map_err(|error| wrong(error.to_string()))?;
        let read = |name: &str, len: usize| -> Result<Vec<f32>> {
            let tensor = file
                .tensor(name)
                .map_err(|error| wrong(error.to_string()))?;
            let found: usize = tensor.shape().iter().product();
            if tensor.dtype() != Dtype::F32 || found != len {
                let reason = format!(
                    "{name} must be {len} numbers in F32, got {found} in {:?}",
                    tensor.dtype()
                );
                return Err(wrong(reason));
            }
            let (words, _) = tensor.data().as_chunks::<4>();
            Ok(words.iter().map(|word| f32::from_le_bytes(*word)).collect())
        };
        let weight = TensorData::new(read(WEIGHT, d_model)?, [1, d_model]);
        let bias = TensorData::new(read(BIAS, 1)?, [1]);
        Ok(Self {
            weight: Param::from_tensor(Tensor::from_data(weight, (device, DType::F32))),
            bias: Param::from_tensor(Tensor::from_data(bias, (device, DType::F32))),
        })
    }
}

/// A digest of the tokens of a tokenizer, in the order of their ids.
///
/// Two tokenizers with the same digest give the same meaning to the same ids.
pub fn vocabulary_digest(tokenizer: &Tokenizer) -> String {
    let mut hash = Xxh3::new();
    let size = u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
    for id in 0..size {
        if let Some(token) = tokenizer.id_to_token(id) {
            hash.update(token.as_bytes());
        }
        hash.update(&[0]);
    }
    format!("{:016x}", hash.digest())
}

/// Writes a file under another name, syncs it, and gives it its own.
pub(crate) fn write_atomically(
    path: &Path,
    write: impl FnOnce(&Path) -> io::Result<()>,
) -> Result<()> {
    let unfinished = path.with_extension("unfinished");
    let outcome = write(&unfinished)
        .and_then(|()| File::open(&unfinished)?.sync_all())
        .and_then(|()| fs::rename(&unfinished, path));
    outcome.map_err(|source| Error::Io {
        path: path.to_owned(),
        source,
    })
}

/// Numbers on their way to a file.
pub(crate) struct Numbers {
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Numbers {
    fn new<const D: usize>(tensor: &Tensor<D>) -> Self {
        let shape = tensor.dims().to_vec();
        let values = numbers(tensor);
        Self {
            shape,
            bytes: values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        }
    }

    pub(crate) fn of(values: &[f32]) -> Self {
        Self {
            shape: vec![values.len()],
            bytes: values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        }
    }
}

impl View for Numbers {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}
