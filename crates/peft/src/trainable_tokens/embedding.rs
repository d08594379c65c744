//! Trained rows of an embedding.

use burn::module::{Module, Param};
use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor, TensorData};
use flametune_kernels::linear;

use crate::base::{cast, meet};
use crate::check::invalid;
use crate::error::Result;
use crate::slots::{EmbeddingAdapter, EmbeddingInput, PartInfo};
use crate::tensors::TensorName;

/// Rows that take the place of some of a frozen table's.
///
/// A head that multiplies with the same table uses them as well: its logits of these tokens become
/// `x·δᵀ`.
///
/// # Shapes
/// - `trainable_tokens_delta`: `[tokens, d_model]`; whole rows, not differences
///
/// # Source
/// - reference: peft `tuners/trainable_tokens/layer.py::TrainableTokensLayer`; goldens
///   `fixtures/peft/trainable_tokens`, `fixtures/peft/trainable_tokens_tied`,
///   `fixtures/peft/lora_trainable_tokens`
#[derive(Module, Debug)]
pub struct TrainableTokens {
    /// The rows.
    pub trainable_tokens_delta: Param<Tensor<2>>,
    /// The tokens they belong to, `[tokens]`.
    indices: Tensor<1, Int>,
    /// For each token one more than the number of its row, or zero; `[vocab]`.
    row_of: Tensor<1, Int>,
    /// Whether it stands beside another method, which PEFT's file shows in the name.
    #[module(skip)]
    beside: bool,
}

impl TrainableTokens {
    /// The rows of these tokens as they are in the table; `field` is named in errors.
    pub(crate) fn of(weight: &Tensor<2>, tokens: &[usize], field: &'static str) -> Result<Self> {
        let [vocab, _] = weight.dims();
        if let Some(token) = tokens.iter().find(|&&token| token >= vocab) {
            let reason = format!("must be below the vocabulary of {vocab}, got {token}");
            return Err(invalid(field, reason));
        }
        let mut row_of = vec![0_i64; vocab];
        for (row, &token) in (1..).zip(tokens) {
            row_of[token] = row;
        }
        #[expect(clippy::cast_possible_wrap, reason = "below the vocabulary")]
        let indices: Vec<i64> = tokens.iter().map(|&token| token as i64).collect();
        let on_device = |values: Vec<i64>| {
            let len = values.len();
            Tensor::<1, Int>::from_data(TensorData::new(values, [len]), &weight.device())
        };
        let indices = on_device(indices);
        let rows = weight.clone().select(0, indices.clone());
        Ok(Self {
            trainable_tokens_delta: Param::from_tensor(cast(rows, DType::F32).detach()),
            indices,
            row_of: on_device(row_of),
            beside: false,
        })
    }

    /// The same, beside another method.
    pub(crate) fn beside_another_method(self) -> Self {
        Self {
            beside: true,
            ..self
        }
    }

    /// How the rows differ from the table's, `[tokens, d_model]` in the parameters' dtype.
    fn change(&self, weight: &Tensor<2>) -> Tensor<2> {
        let own = self.trainable_tokens_delta.val();
        let rows = weight.clone().select(0, self.indices.clone());
        let dtype = own.dtype();
        own - cast(rows, dtype)
    }

    /// Changes the logits `y` of these tokens, in a head that multiplies with the table.
    pub(crate) fn head(&self, weight: &Tensor<2>, x: Tensor<2>, y: Tensor<2>) -> Tensor<2> {
        let change = self.change(weight);
        let logits = linear(meet(x, change.dtype()), change, None);
        let dtype = y.dtype();
        let add = IndexingUpdateOp::Add;
        y.select_assign(1, self.indices.clone(), cast(logits, dtype), add)
    }
}

impl EmbeddingAdapter for TrainableTokens {
    fn forward(&self, input: EmbeddingInput<'_>, y: Tensor<2>) -> Tensor<2> {
        let rows = self.row_of.clone().select(0, input.ids);
        let is_own = rows.clone().greater_elem(0).unsqueeze_dim::<2>(1);
        let own = self.trainable_tokens_delta.val();
        let own = own.select(0, rows.sub_scalar(1).clamp_min(0));
        // With no adapter before it the base's row drops out exactly.
        let replaced = cast(own, y.dtype()) + (y.clone() - input.base_output);
        let [n, width] = y.dims();
        y.mask_where(is_own.expand([n, width]), replaced)
    }

    fn delta(&self, weight: &Tensor<2>) -> Tensor<2> {
        let change = self.change(weight);
        let zeros = Tensor::zeros(weight.dims(), (&weight.device(), change.dtype()));
        zeros.select_assign(0, self.indices.clone(), change, IndexingUpdateOp::Add)
    }

    fn info(&self) -> PartInfo {
        PartInfo::adapter("trainable_tokens", None)
    }

    fn tensor_names(&self) -> &'static [TensorName] {
        const ALONE: &[TensorName] = &[TensorName::new(
            "trainable_tokens_delta",
            "trainable_tokens_delta",
        )];
        const BESIDE: &[TensorName] = &[TensorName::new(
            "trainable_tokens_delta",
            "token_adapter.trainable_tokens_delta",
        )];
        if self.beside { BESIDE } else { ALONE }
    }
}
