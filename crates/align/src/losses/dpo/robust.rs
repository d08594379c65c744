//! Robust DPO.

use burn::tensor::{Tensor, activation};

/// `(−(1 − ε)·ln σ(β·m) + ε·ln σ(−β·m)) / (1 − 2ε)`: its expectation over labels that are wrong with
/// probability `ε` is DPO's loss on the right ones.
///
/// # Source
/// - Chowdhury et al. 2024, Provably Robust DPO, arXiv:2403.00409
pub fn robust(margin: Tensor<1>, beta: f64, label_smoothing: f64) -> Tensor<1> {
    let logits = margin * beta;
    let clean = activation::log_sigmoid(logits.clone()) * (label_smoothing - 1.0);
    let flipped = activation::log_sigmoid(logits.neg()) * label_smoothing;
    (clean + flipped) / (1.0 - 2.0 * label_smoothing)
}
