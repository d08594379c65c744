//! Noise contrastive alignment.

use burn::tensor::Tensor;
use burn::tensor::activation::log_sigmoid;

use crate::losses::pair::PairLogps;

/// `−ln σ(r_c) − ½·ln σ(−r_c) − ½·ln σ(−r_r)` with `r = β·x`.
///
/// # Source
/// - Chen et al. 2024, Noise Contrastive Alignment of Language Models with Explicit Rewards,
///   arXiv:2402.05369
pub fn nca_pair(ratios: &PairLogps, beta: f64) -> Tensor<1> {
    let chosen = ratios.chosen.clone() * beta;
    let rejected = ratios.rejected.clone() * beta;
    let noise = log_sigmoid(chosen.clone().neg()) + log_sigmoid(rejected.neg());
    log_sigmoid(chosen).neg() - noise * 0.5
}
