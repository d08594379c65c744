//! What `LoHa` and `LoKr` share: how they drop parts of the update.

use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::selection::Dropout;

/// The dropout of whole updates and of outputs of updates.
///
/// # Source
/// - reference: peft `tuners/loha/layer.py::LoHaLayer.get_delta_weight`, `forward`
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct UpdateDropout {
    /// The probability of dropping each output of the update.
    pub(crate) rank_dropout: f64,
    /// Whether the outputs that are left are scaled to keep their mean.
    pub(crate) rescale: bool,
    /// The probability of dropping the whole update.
    pub(crate) module_dropout: f64,
    /// Chooses the random numbers.
    pub(crate) key: u64,
}

impl UpdateDropout {
    /// Whether this pass leaves the whole update out.
    pub(crate) fn drops_all(&self, dropout: &Dropout<'_>) -> bool {
        let draw = dropout.draw(self.key, u64::MAX);
        draw.is_some_and(|draw| draw < self.module_dropout)
    }

    /// Drops outputs of the update, `[rows, d_out]`.
    pub(crate) fn apply(&self, update: Tensor<2>, dropout: &Dropout<'_>) -> Tensor<2> {
        if !dropout.is_active(self.rank_dropout) {
            return update;
        }
        let [_, d_out] = update.dims();
        let gains = self.gains(d_out, dropout, (&update.device(), update.dtype()));
        update * gains
    }

    #[expect(clippy::cast_precision_loss, reason = "widths are small")]
    fn gains(&self, d_out: usize, dropout: &Dropout<'_>, place: (&Device, DType)) -> Tensor<2> {
        let mut gains: Vec<f32> = (0..d_out as u64)
            .map(|output| match dropout.draw(self.key, output) {
                Some(draw) if draw < self.rank_dropout => 0.0,
                _ => 1.0,
            })
            .collect();
        let kept: f32 = gains.iter().sum();
        if self.rescale && kept > 0.0 {
            let scale = d_out as f32 / kept;
            gains.iter_mut().for_each(|gain| *gain *= scale);
        }
        Tensor::from_data(TensorData::new(gains, [1, d_out]), place)
    }
}
