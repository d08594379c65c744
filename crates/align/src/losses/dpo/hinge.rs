//! A hinge on the margin.

use burn::tensor::{Tensor, activation};

/// `max(0, 1 − β·m)`.
///
/// # Source
/// - Zhao et al. 2023, SLiC-HF, arXiv:2305.10425, on the log-ratios of DPO as
///   Liu et al. 2023, RSO, arXiv:2309.06657, has it
pub fn hinge(margin: Tensor<1>, beta: f64) -> Tensor<1> {
    activation::relu((margin * beta).neg() + 1.0)
}
