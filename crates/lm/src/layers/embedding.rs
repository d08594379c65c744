//! Rows of a matrix looked up by token id.

use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor, TensorData};

/// A table of one vector a token.
///
/// # Shapes
/// - `weight`: `[vocab, d_model]`
#[derive(Module, Debug)]
pub struct TokenEmbedding {
    /// The vectors.
    pub weight: Param<Tensor<2>>,
}

impl TokenEmbedding {
    /// Looks up a rectangle of ids, `batch` rows of them, in the dtype of the activations.
    ///
    /// # Shapes
    /// - returns `[batch, ids.len() / batch, d_model]`
    ///
    /// # Panics
    /// When an id is outside the table; callers check ids first.
    pub fn forward(&self, ids: &[u32], batch: usize, dtype: DType) -> Tensor<3> {
        let weight = self.weight.val();
        let [_, width] = weight.dims();
        let indices: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
        let indices = Tensor::from_data(TensorData::new(indices, [ids.len()]), &weight.device());
        let rows = weight.select(0, indices);
        let rows = if rows.dtype() == dtype {
            rows
        } else {
            rows.cast(dtype)
        };
        rows.reshape([batch, ids.len() / batch, width])
    }
}
