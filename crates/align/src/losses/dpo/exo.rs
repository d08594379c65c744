//! Efficient exact optimization.

use burn::tensor::{Tensor, activation};

/// `KL(q ‖ p)` between the policy's choice `q = (σ(β·m), σ(−β·m))` and the labels
/// `p = (1 − ε, ε)`.
///
/// # Source
/// - Ji et al. 2024, Towards Efficient Exact Optimization of Language Model Alignment,
///   arXiv:2402.00856, eq. (16)
pub fn exo_pair(margin: Tensor<1>, beta: f64, label_smoothing: f64) -> Tensor<1> {
    let logits = margin * beta;
    let side = |logits: Tensor<1>, p: f64| {
        let q = activation::sigmoid(logits.clone());
        q * (activation::log_sigmoid(logits) - p.ln())
    };
    side(logits.clone(), 1.0 - label_smoothing) + side(logits.neg(), label_smoothing)
}
