//! The slot for adapters around a table of vectors.

use burn::module::{Module, Param};
use burn::tensor::{DType, Int, Tensor, TensorData};
use flametune_kernels::Precision;

use super::{NamedAdapter, PartInfo, SavedEmbedding, SlotMethod};
use crate::base::cast;
use crate::lora::LoraEmbedding;
use crate::selection::AdapterPass;
use crate::tensors::TensorName;
use crate::trainable_tokens::TrainableTokens;

/// A frozen table of one vector a token, and the adapters on it.
///
/// # Shapes
/// - `weight`: `[vocab, d_model]`
#[derive(Module, Debug)]
pub struct AdapterEmbedding {
    /// The vectors.
    pub weight: Param<Tensor<2>>,
    /// The adapters, in the order in which they were added.
    pub adapters: Vec<NamedAdapter<EmbeddingMethod>>,
    /// How exactly a head multiplies that uses the table as its matrix.
    #[module(skip)]
    pub head_precision: Precision,
    /// The table as it was before adapters were merged into it.
    #[module(skip)]
    pub(crate) unmerged: Option<Tensor<2>>,
}

/// The methods that adapt embeddings.
#[derive(Module, Debug)]
pub enum EmbeddingMethod {
    /// LoRA, rsLoRA and DoRA.
    Lora(LoraEmbedding),
    /// A full copy that replaces the table (`modules_to_save`).
    Saved(SavedEmbedding),
    /// Trained rows of some tokens.
    Tokens(TrainableTokens),
}

/// What a method sees of one look-up; all ids use the adapter.
#[derive(Debug, Clone)]
pub(crate) struct EmbeddingInput<'a> {
    /// The table, `[vocab, d_model]`.
    pub(crate) weight: &'a Tensor<2>,
    /// The ids, `[n]`.
    pub(crate) ids: Tensor<1, Int>,
    /// Their rows of the table, `[n, d_model]`.
    pub(crate) base_output: Tensor<2>,
}

/// What a method must offer to adapt embeddings.
pub(crate) trait EmbeddingAdapter: Module {
    /// Adds what the adapter contributes to `y`.
    fn forward(&self, input: EmbeddingInput<'_>, y: Tensor<2>) -> Tensor<2>;

    /// The change of the table `[vocab, d_model]` that equals the adapter.
    fn delta(&self, weight: &Tensor<2>) -> Tensor<2>;

    /// What reports and files need to know of it.
    fn info(&self) -> PartInfo;

    /// How its parameters are called on disk.
    fn tensor_names(&self) -> &'static [TensorName];

    /// Recomputes what was derived from parameters or table, after either has changed.
    fn refresh(&mut self, weight: &Tensor<2>) {
        let _ = weight;
    }
}

macro_rules! each_embedding {
    ($self:expr, $method:ident => $call:expr) => {
        match $self {
            EmbeddingMethod::Lora($method) => $call,
            EmbeddingMethod::Saved($method) => $call,
            EmbeddingMethod::Tokens($method) => $call,
        }
    };
}

impl EmbeddingMethod {
    pub(crate) fn forward(&self, input: EmbeddingInput<'_>, y: Tensor<2>) -> Tensor<2> {
        each_embedding!(self, method => method.forward(input, y))
    }

    pub(crate) fn delta(&self, weight: &Tensor<2>) -> Tensor<2> {
        each_embedding!(self, method => method.delta(weight))
    }

    pub(crate) fn refresh(&mut self, weight: &Tensor<2>) {
        each_embedding!(self, method => method.refresh(weight));
    }
}

impl SlotMethod for EmbeddingMethod {
    fn info(&self) -> PartInfo {
        each_embedding!(self, method => method.info())
    }

    fn tensor_names(&self) -> &'static [TensorName] {
        each_embedding!(self, method => method.tensor_names())
    }
}

impl AdapterEmbedding {
    /// Wraps a table; no adapters yet.
    pub fn new(weight: Param<Tensor<2>>) -> Self {
        Self {
            weight,
            adapters: Vec::new(),
            head_precision: Precision::Full,
            unmerged: None,
        }
    }

    /// Looks up a rectangle of ids, `batch` rows of them, in the dtype of the activations.
    ///
    /// # Shapes
    /// - returns `[batch, ids.len() / batch, d_model]`
    ///
    /// # Panics
    /// When an id is outside the table; callers check ids first.
    pub fn forward(
        &self,
        ids: &[u32],
        batch: usize,
        dtype: DType,
        pass: &AdapterPass,
    ) -> Tensor<3> {
        let weight = self.weight.val();
        let [_, width] = weight.dims();
        let seq = ids.len() / batch;
        let indices: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
        let indices: Tensor<1, Int> =
            Tensor::from_data(TensorData::new(indices, [ids.len()]), &weight.device());
        let rows = cast(weight.clone().select(0, indices.clone()), dtype);
        let y = if self.adapters.is_empty() || pass.is_base() {
            rows
        } else {
            self.adapt(&weight, &indices, &rows, seq, pass)
        };
        y.reshape([batch, seq, width])
    }

    /// The trained rows of an adapter, if it has some here.
    pub(crate) fn tokens(&self, name: &str) -> Option<&TrainableTokens> {
        self.adapters.iter().find_map(|part| match &part.method {
            EmbeddingMethod::Tokens(tokens) if part.name == name => Some(tokens),
            _ => None,
        })
    }

    fn adapt(
        &self,
        weight: &Tensor<2>,
        ids: &Tensor<1, Int>,
        base_output: &Tensor<2>,
        seq: usize,
        pass: &AdapterPass,
    ) -> Tensor<2> {
        let adapted = |names: &[&str], input: EmbeddingInput<'_>| {
            let mut y = input.base_output.clone();
            for name in names {
                for adapter in self.adapters.iter().filter(|adapter| adapter.name == *name) {
                    y = adapter.method.forward(input.clone(), y);
                }
            }
            y
        };
        pass.run(
            |name| self.adapters.iter().any(|adapter| adapter.name == name),
            seq,
            |names| {
                let input = EmbeddingInput {
                    weight,
                    ids: ids.clone(),
                    base_output: base_output.clone(),
                };
                adapted(names, input)
            },
            |name, set| {
                let picks = set.indices(&ids.device());
                let input = EmbeddingInput {
                    weight,
                    ids: ids.clone().select(0, picks),
                    base_output: set.of(base_output),
                };
                adapted(name.as_slice(), input)
            },
        )
    }
}
