//! Alignment via optimal transport: whole batches compared as distributions.

use burn::tensor::{Int, Tensor, TensorData};

use super::sigmoid::sigmoid;
use crate::host::numbers;
use crate::losses::pair::PairLogps;

/// [`sigmoid`](super::sigmoid()) of the policy's sorted margins minus the reference's sorted ones.
///
/// The pairs of a call are compared as a whole: other batches are another loss.
///
/// # Source
/// - Melnyk et al. 2024, Distributional Preference Alignment of LLMs via Optimal Transport,
///   arXiv:2406.05882, algorithm 1
pub fn aot(
    policy: &PairLogps,
    reference: &PairLogps,
    beta: f64,
    label_smoothing: f64,
) -> Tensor<1> {
    let margin = sorted(policy.margin()) - sorted(reference.margin());
    sigmoid(margin, beta, label_smoothing)
}

/// [`sigmoid`](super::sigmoid()) of the sorted log-ratios of the chosen answers minus those of the
/// others.
///
/// # Source
/// - as [`aot`], for answers that are no pairs
pub fn aot_unpaired(ratios: &PairLogps, beta: f64, label_smoothing: f64) -> Tensor<1> {
    let margin = sorted(ratios.chosen.clone()) - sorted(ratios.rejected.clone());
    sigmoid(margin, beta, label_smoothing)
}

/// The values in ascending order; gradients go back to where each came from.
fn sorted(values: Tensor<1>) -> Tensor<1> {
    let numbers = numbers(&values);
    let mut order: Vec<(usize, i64)> = (0..numbers.len()).zip(0_i64..).collect();
    order.sort_by(|a, b| numbers[a.0].total_cmp(&numbers[b.0]));
    let order: Vec<i64> = order.into_iter().map(|(_, place)| place).collect();
    let len = order.len();
    let order = Tensor::<1, Int>::from_data(TensorData::new(order, [len]), &values.device());
    values.select(0, order)
}
