//! Zero mean and unit variance.

use crate::host::{count, f32_of};

/// Keeps the variance from being zero.
const EPSILON: f64 = 1e-8;

/// `(x − mean) / √(var + 1e-8)`, with the unbiased variance; the mean stays where `keep_mean`.
///
/// One value, which has no variance, becomes 0, or stays where `keep_mean`.
///
/// # Source
/// - reference: TRL 0.24 `core.py::masked_whiten`; golden `fixtures/align/ppo.safetensors`
pub fn whiten(values: &mut [f32], keep_mean: bool) {
    let len = count(values.len());
    let sum: f64 = values.iter().map(|x| f64::from(*x)).sum();
    let mean = sum / len.max(1.0);
    let squares = values.iter().map(|x| (f64::from(*x) - mean).powi(2));
    let variance = squares.sum::<f64>() / (len - 1.0).max(1.0);
    let scale = (variance + EPSILON).sqrt().recip();
    let scale = if values.len() < 2 { 1.0 } else { scale };
    for value in values {
        let kept = if keep_mean { mean } else { 0.0 };
        *value = f32_of((f64::from(*value) - mean) * scale + kept);
    }
}
