//! The loss of DPO itself.

use burn::tensor::{Tensor, activation};

/// `−(1 − ε)·ln σ(β·m) − ε·ln σ(−β·m)` of margins `m`, with label smoothing `ε`.
///
/// # Source
/// - Rafailov et al. 2023, DPO, arXiv:2305.18290, eq. (7)
/// - label smoothing: Mitchell 2023, "A note on DPO with noisy preferences" (cDPO)
pub fn sigmoid(margin: Tensor<1>, beta: f64, label_smoothing: f64) -> Tensor<1> {
    let logits = margin * beta;
    let loss = activation::log_sigmoid(logits.clone()).neg();
    if label_smoothing == 0.0 {
        return loss;
    }
    loss * (1.0 - label_smoothing) - activation::log_sigmoid(logits.neg()) * label_smoothing
}

/// [`sigmoid`] of the margin of scores per token, so that long answers have no advantage.
///
/// # Source
/// - reference: TRL 1.16 `dpo_trainer.py`, `loss_type` `sigmoid_norm`
pub fn sigmoid_norm(margin_per_token: Tensor<1>, beta: f64) -> Tensor<1> {
    sigmoid(margin_per_token, beta, 0.0)
}
