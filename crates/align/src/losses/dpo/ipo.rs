//! Identity preference optimization.

use burn::tensor::Tensor;

/// `(m − 1/(2β))²` of the margin of scores per token; `β` is the paper's `τ`.
///
/// The square makes the gap of log-ratios a target rather than a direction, so that it does not grow
/// without bound. It needs the reference as DPO does.
///
/// # Source
/// - Azar et al. 2023, IPO, arXiv:2310.12036, eq. (17)
/// - scores are divided by the number of tokens as TRL 1.16 does, on its authors' advice
pub fn ipo(margin_per_token: Tensor<1>, beta: f64) -> Tensor<1> {
    let error = margin_per_token - 1.0 / (2.0 * beta);
    error.clone() * error
}
