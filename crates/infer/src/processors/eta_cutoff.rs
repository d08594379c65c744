use super::epsilon_cutoff::remove_unlikely;
use super::scratch::{Scratch, Softmax};

/// Drops tokens less likely than `min(ε, √ε·exp(−entropy))`, but never the most likely one.
///
/// The flatter the distribution, the less likely a token may be.
///
/// # Source
/// - Hewitt et al. 2022, Truncation Sampling as Language Model Desmoothing, arXiv:2210.15191
/// - reference: transformers `EtaLogitsWarper`; golden `fixtures/sampling`
pub fn eta_cutoff(logits: &mut [f32], epsilon: f32, scratch: &mut Scratch) {
    if let Some(softmax) = Softmax::of(logits, &mut scratch.weights) {
        let epsilon = f64::from(epsilon);
        let limit = epsilon.min(epsilon.sqrt() * (-softmax.entropy()).exp());
        remove_unlikely(logits, &softmax, limit);
    }
}
