//! Binary classifier optimization, on pairs.

use burn::tensor::Tensor;
use burn::tensor::activation::log_sigmoid;

use crate::losses::pair::PairLogps;

/// `−ln σ(β·x_c) − ln σ(−β·x_r)`.
///
/// # Source
/// - Jung et al. 2024, Binary Classifier Optimization, arXiv:2404.04656, without the reward shift
pub fn bco_pair(ratios: &PairLogps, beta: f64) -> Tensor<1> {
    let wanted = log_sigmoid(ratios.chosen.clone() * beta);
    (wanted + log_sigmoid(ratios.rejected.clone() * -beta)).neg()
}
