//! LoRA on an embedding.

use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor};
use flametune_kernels::linear;

use super::config::{InitLoraWeights, LoraConfig};
use super::dora;
use crate::base::cast;
use crate::random::Stream;
use crate::slots::{EmbeddingAdapter, EmbeddingInput, PartInfo};
use crate::tensors::TensorName;

/// A low-rank update of a frozen table: row `i` becomes `E₀[i] + scaling · A[:, i]ᵀ·Bᵀ`.
///
/// With a magnitude vector `m` (DoRA) the sum is multiplied by `m / ‖E₀ + scaling·Aᵀ·Bᵀ‖`, the
/// norm of each column of the table, taken as a constant by the gradient.
///
/// # Shapes
/// - `lora_embedding_a`: `[r, vocab]`, `lora_embedding_b`: `[d_model, r]`, as on disk
/// - `lora_magnitude_vector`: `[d_model]`
///
/// # Source
/// - reference: peft `tuners/lora/layer.py::Embedding`, which drops no inputs; goldens
///   `fixtures/peft/lora_embed_head`, `fixtures/peft/dora_embed`
#[derive(Module, Debug)]
pub struct LoraEmbedding {
    /// Down to the rank, a column a token.
    pub lora_embedding_a: Param<Tensor<2>>,
    /// Up to the width.
    pub lora_embedding_b: Param<Tensor<2>>,
    /// The length of each column of the adapted table (DoRA).
    pub lora_magnitude_vector: Option<Param<Tensor<1>>>,
    /// `‖E₀‖²` of each column, for DoRA.
    base_norms: Option<Tensor<1>>,
    /// The factor before the update.
    #[module(skip)]
    pub scaling: f64,
}

impl LoraEmbedding {
    /// New factors for `weight`, of rank `r`; `A` begins at zero.
    pub(crate) fn init(
        config: &LoraConfig,
        weight: &Tensor<2>,
        (r, lora_alpha): (usize, f64),
        (seed, key): (u64, u64),
    ) -> Self {
        let [vocab, width] = weight.dims();
        let place = (&weight.device(), DType::F32);
        let stream = |part| Stream::new(&[seed, key, part]);
        let a = match config.init_lora_weights {
            InitLoraWeights::Random => stream(0).normal_tensor([r, vocab], 1.0, place),
            _ => Tensor::zeros([r, vocab], place),
        };
        let b = stream(1).normal_tensor([width, r], 1.0, place);
        let mut adapter = Self {
            lora_embedding_a: Param::from_tensor(a),
            lora_embedding_b: Param::from_tensor(b),
            lora_magnitude_vector: None,
            base_norms: None,
            scaling: config.scaling(r, lora_alpha),
        };
        if config.use_dora {
            adapter.base_norms = Some(dora::squared_column_norms(weight.clone()));
            adapter.lora_magnitude_vector = Some(Param::from_tensor(adapter.column_norms(weight)));
        }
        adapter
    }

    /// The rank.
    pub fn r(&self) -> usize {
        self.lora_embedding_a.dims()[0]
    }

    fn column_norms(&self, weight: &Tensor<2>) -> Tensor<1> {
        let squares = match &self.base_norms {
            Some(norms) => norms.clone(),
            None => dora::squared_column_norms(weight.clone()),
        };
        dora::adapted_norms(
            squares,
            |a| dora::table_product(&a, weight.clone()),
            self.lora_embedding_a.val(),
            self.lora_embedding_b.val(),
            self.scaling,
        )
    }
}

impl EmbeddingAdapter for LoraEmbedding {
    fn forward(&self, input: EmbeddingInput<'_>, y: Tensor<2>) -> Tensor<2> {
        let dtype = y.dtype();
        let a = self.lora_embedding_a.val().transpose().select(0, input.ids);
        let update = linear(a, self.lora_embedding_b.val(), None) * self.scaling;
        let Some(magnitude) = &self.lora_magnitude_vector else {
            return y + cast(update, dtype);
        };
        let gain = (magnitude.val() / self.column_norms(input.weight)).unsqueeze::<2>();
        let plain = cast(input.base_output, gain.dtype());
        let change = plain * (gain.clone() - 1.0) + cast(update, gain.dtype()) * gain;
        y + cast(change, dtype)
    }

    fn delta(&self, weight: &Tensor<2>) -> Tensor<2> {
        let a = cast(self.lora_embedding_a.val(), DType::F32);
        let b = cast(self.lora_embedding_b.val(), DType::F32);
        let update = a.transpose().matmul(b.transpose()) * self.scaling;
        match &self.lora_magnitude_vector {
            None => update,
            Some(magnitude) => {
                let gain = (magnitude.val() / self.column_norms(weight)).unsqueeze::<2>();
                cast(weight.clone(), DType::F32) * (gain.clone() - 1.0) + update * gain
            }
        }
    }

    fn info(&self) -> PartInfo {
        PartInfo::adapter("lora", Some(self.r()))
    }

    fn tensor_names(&self) -> &'static [TensorName] {
        const {
            &[
                TensorName::new("lora_embedding_a", "lora_embedding_A"),
                TensorName::new("lora_embedding_b", "lora_embedding_B"),
                TensorName::new("lora_magnitude_vector", "lora_magnitude_vector"),
            ]
        }
    }

    fn refresh(&mut self, weight: &Tensor<2>) {
        if self.base_norms.is_some() {
            self.base_norms = Some(dora::squared_column_norms(weight.clone()));
        }
    }
}
