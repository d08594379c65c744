//! Self-play preference optimization.

use burn::tensor::Tensor;

use crate::losses::pair::PairLogps;

/// `(x_c − 1/(2β))² + (x_r + 1/(2β))²`: the chosen answer is certain to win.
///
/// # Source
/// - Wu et al. 2024, SPPO, arXiv:2405.00675, eq. (4.7) with probabilities of one and zero
pub fn sppo_hard(ratios: &PairLogps, beta: f64) -> Tensor<1> {
    let target = 0.5 / beta;
    let winner = ratios.chosen.clone() - target;
    let loser = ratios.rejected.clone() + target;
    winner.clone() * winner + loser.clone() * loser
}
