//! Whether two models say the same.

use anyhow::{Result, bail};
use burn::tensor::{Tensor, activation};
use flametune_lm::{AdapterPass, CausalLm, TokenBatch};

/// Rows of ids that models are compared on, and their length.
const ROWS: usize = 2;
const LENGTH: usize = 16;

/// Log-probabilities after a few fixed rows of scattered ids.
pub(super) fn logps(model: &CausalLm, pass: &AdapterPass) -> Result<Tensor<3>> {
    let batch = TokenBatch::from_rows(&model.scattered_prompts(ROWS, LENGTH))?;
    let logits = model.logits(model.forward(&batch, None, pass)?, pass);
    Ok(activation::log_softmax(logits, 2))
}

/// `Σ p·(ln p − ln q)`, the mean over all positions; an error above `max_kl`.
pub(super) fn compare(expected: Tensor<3>, got: Tensor<3>, max_kl: f64) -> Result<f64> {
    if expected.dims() != got.dims() {
        bail!(
            "what was written has logits of the shape {:?}, expected {:?}",
            got.dims(),
            expected.dims()
        );
    }
    let each = expected.clone().exp() * (expected - got);
    let mean = f64::from(each.sum_dim(2).mean().into_scalar::<f32>());
    // Rounding may put equal distributions below zero; NaN must not pass.
    if mean.is_nan() || mean > max_kl {
        bail!(
            "what was written diverges from what was to be written by {mean:.3e} nats a token, \
             the limit is {max_kl:.3e}; nothing was published"
        );
    }
    Ok(mean.max(0.0))
}
