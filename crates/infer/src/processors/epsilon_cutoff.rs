use super::scratch::{Scratch, Softmax, remove_below};

/// Drops tokens less likely than `epsilon`, but never the most likely one.
///
/// # Source
/// - Hewitt et al. 2022, Truncation Sampling as Language Model Desmoothing, arXiv:2210.15191
/// - reference: transformers `EpsilonLogitsWarper`; golden `fixtures/sampling`
pub fn epsilon_cutoff(logits: &mut [f32], epsilon: f32, scratch: &mut Scratch) {
    if let Some(softmax) = Softmax::of(logits, &mut scratch.weights) {
        remove_unlikely(logits, &softmax, f64::from(epsilon));
    }
}

/// Drops tokens with a probability below `limit`.
pub(super) fn remove_unlikely(logits: &mut [f32], softmax: &Softmax, limit: f64) {
    let threshold = f64::from(softmax.max) + (limit * softmax.total).ln();
    remove_below(logits, threshold, softmax.max);
}
