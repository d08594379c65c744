//! The golden models, and what the tests need of them.

use std::collections::HashMap;
use std::path::PathBuf;

use burn::tensor::{Device, Tensor, TensorData};
use flametune_lm::{AdapterPass, CausalLm, Checkpoint, LoadOptions, PADDING, TokenBatch};
use flametune_testkit::{fixture_path, fixture_safetensors};

/// Every causal golden model.
pub(crate) const CAUSAL: &[&str] = &[
    "gemma",
    "gemma2",
    "gemma3_text",
    "gpt2",
    "granite",
    "llama",
    "llama_mha_headdim",
    "llama_rope_dynamic",
    "llama_rope_linear",
    "llama_rope_llama3",
    "llama_rope_yarn",
    "llama_rope_yarn_custom",
    "llama_tied_bias",
    "mistral_swa",
    "mixtral",
    "olmo2",
    "phi3",
    "phi3_longrope",
    "qwen2",
    "qwen3",
    "smollm3",
    "stablelm",
];

pub(crate) struct Golden {
    pub(crate) folder: PathBuf,
    pub(crate) tensors: HashMap<String, TensorData>,
}

impl Golden {
    pub(crate) fn open(name: &str) -> Self {
        Self {
            folder: fixture_path(format!("models/{name}")),
            tensors: fixture_safetensors(format!("models/{name}/golden.safetensors")),
        }
    }

    pub(crate) fn checkpoint(&self) -> Checkpoint {
        Checkpoint::open(&self.folder).unwrap()
    }

    pub(crate) fn model(&self, device: &Device) -> CausalLm {
        self.model_as(&LoadOptions::f32(device))
    }

    pub(crate) fn model_as(&self, options: &LoadOptions) -> CausalLm {
        CausalLm::load(&self.checkpoint(), options, &mut |_| {}).unwrap()
    }

    pub(crate) fn floats(&self, name: &str) -> Vec<f32> {
        floats(&self.tensors[name])
    }

    pub(crate) fn ids(&self, name: &str) -> Vec<Vec<u32>> {
        let data = &self.tensors[name];
        let width = *data.shape().last().unwrap();
        let ids: Vec<u32> = data
            .iter::<i64>()
            .map(|id| u32::try_from(id).unwrap())
            .collect();
        ids.chunks(width).map(<[u32]>::to_vec).collect()
    }

    /// The padded batch that `logits` was computed on.
    pub(crate) fn batch(&self) -> TokenBatch {
        let mask = self.ids("attention_mask").concat();
        TokenBatch::from_rows(&self.ids("input_ids"))
            .unwrap()
            .with_segment_ids(mask)
            .unwrap()
    }

    /// The rows of `values` (`[batch · seq, width]`) that belong to tokens, not to padding.
    pub(crate) fn tokens_only(&self, values: &[f32]) -> Vec<f32> {
        let mask = self.ids("attention_mask").concat();
        let width = values.len() / mask.len();
        values
            .chunks(width)
            .zip(&mask)
            .filter(|&(_, &segment)| segment != PADDING)
            .flat_map(|(row, _)| row.iter().copied())
            .collect()
    }
}

pub(crate) fn floats(data: &TensorData) -> Vec<f32> {
    data.iter::<f32>().collect()
}

pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    floats(&tensor.into_data())
}

/// Logits of a batch of equal rows.
pub(crate) fn logits(model: &CausalLm, batch: &TokenBatch) -> Vec<f32> {
    values(model.logits(model.forward(batch, None, &base()).unwrap(), &base()))
}

/// The index of the largest value, the first of equals.
pub(crate) fn argmax(row: &[f32]) -> u32 {
    let mut best = 0;
    for (index, value) in row.iter().enumerate() {
        if *value > row[best] {
            best = index;
        }
    }
    u32::try_from(best).unwrap()
}

/// A pass without adapters.
pub(crate) fn base() -> AdapterPass {
    AdapterPass::default()
}
