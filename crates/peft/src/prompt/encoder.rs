//! Where the table of virtual tokens comes from.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, activation};

use super::affine::Affine;
use super::lstm::LstmLayer;
use crate::random::text_key;
use crate::selection::Dropout;
use crate::tensors::TensorName;

/// What makes the table of virtual tokens, `[num_virtual_tokens, width]`.
///
/// # Shapes
/// - `embedding`: `[num_virtual_tokens, width]`, or `[num_virtual_tokens, token_dim]` before a map
///   to the width
///
/// # Source
/// - Lester, Al-Rfou and Constant 2021, The Power of Scale for Parameter-Efficient Prompt Tuning,
///   arXiv:2104.08691, §2
/// - Li and Liang 2021, Prefix-Tuning, arXiv:2101.00190, §4.2 and §4.3 (the projection)
/// - Liu et al. 2021, GPT Understands, Too, arXiv:2103.10385: the LSTM and its MLP
/// - reference: peft `tuners/prompt_tuning/model.py`, `tuners/prefix_tuning/model.py`,
///   `tuners/p_tuning/model.py`; goldens `fixtures/peft/prompt_encoders.safetensors`
#[derive(Module, Debug)]
pub enum PromptEncoder {
    /// The table itself.
    Table(Table),
    /// `W₂·tanh(W₁·e + b₁) + b₂`.
    Projection(Projection),
    /// Three linear maps with ReLU between them.
    Mlp(Mlp),
    /// A bidirectional LSTM over the virtual tokens, then two linear maps with ReLU between them.
    Lstm(Lstm),
}

/// A table that is trained as it is.
#[derive(Module, Debug)]
pub struct Table {
    /// One row a virtual token.
    pub embedding: Param<Tensor<2>>,
}

/// The reparameterisation of prefix tuning.
#[derive(Module, Debug)]
pub struct Projection {
    /// One row a virtual token.
    pub embedding: Param<Tensor<2>>,
    /// Into the hidden layer, and out of it.
    pub transform: Vec<Affine>,
}

/// P-tuning's encoder without recurrence.
#[derive(Module, Debug)]
pub struct Mlp {
    /// One row a virtual token.
    pub embedding: Param<Tensor<2>>,
    /// The linear maps, in order.
    pub mlp_head: Vec<Affine>,
}

/// P-tuning's recurrent encoder.
#[derive(Module, Debug)]
pub struct Lstm {
    /// One row a virtual token.
    pub embedding: Param<Tensor<2>>,
    /// The layers, in order.
    pub lstm_head: Vec<LstmLayer>,
    /// The linear maps after them, in order.
    pub mlp_head: Vec<Affine>,
    /// The probability of dropping a number between two layers.
    #[module(skip)]
    pub dropout: f64,
}

impl PromptEncoder {
    /// A table.
    pub(super) fn table(embedding: Tensor<2>) -> Self {
        Self::Table(Table {
            embedding: Param::from_tensor(embedding.detach()),
        })
    }

    fn embedding(&self) -> &Param<Tensor<2>> {
        match self {
            Self::Table(table) => &table.embedding,
            Self::Projection(projection) => &projection.embedding,
            Self::Mlp(mlp) => &mlp.embedding,
            Self::Lstm(lstm) => &lstm.embedding,
        }
    }

    /// The number of virtual tokens.
    pub(super) fn len(&self) -> usize {
        self.embedding().dims()[0]
    }

    /// The device of the parameters.
    pub(super) fn device(&self) -> Device {
        self.embedding().device()
    }

    /// The table.
    pub(super) fn vectors(&self, dropout: Dropout<'_>) -> Tensor<2> {
        match self {
            Self::Table(table) => table.embedding.val(),
            Self::Projection(projection) => chain(
                projection.embedding.val(),
                &projection.transform,
                Tensor::tanh,
            ),
            Self::Mlp(mlp) => chain(mlp.embedding.val(), &mlp.mlp_head, activation::relu),
            Self::Lstm(lstm) => {
                let mut states = lstm.embedding.val();
                for (index, layer) in lstm.lstm_head.iter().enumerate() {
                    if index > 0 {
                        let key = text_key("lstm_head").wrapping_add(index as u64);
                        states = dropout.apply(states, lstm.dropout, key);
                    }
                    states = layer.forward(states);
                }
                chain(states, &lstm.mlp_head, activation::relu)
            }
        }
    }

    /// Every parameter, so that all are counted; only the table has a name on disk.
    pub(super) const TENSOR_NAMES: &'static [TensorName] = &[
        TensorName::new("embedding", "embedding.weight"),
        TensorName::new("weight", "weight"),
        TensorName::new("bias", "bias"),
        TensorName::new("weight_ih", "weight_ih"),
        TensorName::new("weight_hh", "weight_hh"),
        TensorName::new("bias_ih", "bias_ih"),
        TensorName::new("bias_hh", "bias_hh"),
    ];
}

/// Linear maps with a function between any two of them.
fn chain(x: Tensor<2>, maps: &[Affine], between: impl Fn(Tensor<2>) -> Tensor<2>) -> Tensor<2> {
    maps.iter().enumerate().fold(x, |x, (index, map)| {
        map.forward(if index > 0 { between(x) } else { x })
    })
}

#[cfg(test)]
mod tests;
