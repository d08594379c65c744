use super::scratch::remove_below;

/// Keeps tokens at least `p` times as likely as the most likely one; 0 keeps all.
///
/// `p(x) < min_p·p(max)` is `x < max + ln min_p`: no exponential is needed.
///
/// # Source
/// - Nguyen et al. 2024, Turning Up the Heat: Min-p Sampling, arXiv:2407.01082
/// - reference: transformers `MinPLogitsWarper`; golden `fixtures/sampling`
pub fn min_p(logits: &mut [f32], p: f32) {
    if p <= 0.0 {
        return;
    }
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    remove_below(logits, f64::from(max) + f64::from(p).ln(), max);
}
