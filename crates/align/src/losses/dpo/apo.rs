//! Anchored preference optimization.

use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;

use crate::losses::pair::PairLogps;

/// `1 − σ(β·x_c) + σ(β·x_r)`: for chosen answers that are better than the model's own.
///
/// # Source
/// - D'Oosterlinck et al. 2024, Anchored Preference Optimization, arXiv:2408.06266, eq. (7)
pub fn apo_zero(ratios: &PairLogps, beta: f64) -> Tensor<1> {
    let chosen = sigmoid(ratios.chosen.clone() * beta);
    let rejected = sigmoid(ratios.rejected.clone() * beta);
    rejected - chosen + 1.0
}

/// `σ(β·x_c) + 1 − σ(β·(x_c − x_r))`: for chosen answers that are worse than the model's own.
///
/// # Source
/// - D'Oosterlinck et al. 2024, Anchored Preference Optimization, arXiv:2408.06266, eq. (8)
pub fn apo_down(ratios: &PairLogps, beta: f64) -> Tensor<1> {
    let chosen = sigmoid(ratios.chosen.clone() * beta);
    let margin = sigmoid(ratios.margin() * beta);
    chosen - margin + 1.0
}
