//! A loss that a language model discovered.

use burn::tensor::{Tensor, activation};

/// `(1 − w)·(−ln σ(z)) + w·e^(−z)` with `z = β·m` and `w = σ(z/τ)`.
///
/// # Source
/// - Lu et al. 2024, Discovering Preference Optimization Algorithms with and for LLMs,
///   arXiv:2406.08414, eq. (5)
pub fn discopop(margin: Tensor<1>, beta: f64, tau: f64) -> Tensor<1> {
    let logits = margin * beta;
    let blend = activation::sigmoid(logits.clone() / tau);
    let logistic = activation::log_sigmoid(logits.clone()).neg();
    let exponential = logits.neg().exp();
    logistic * (blend.clone().neg() + 1.0) + exponential * blend
}
