/// Divides the logits: below 1 sharpens the distribution, above 1 flattens it.
///
/// # Source
/// - reference: transformers `TemperatureLogitsWarper`; golden `fixtures/sampling`
pub fn temperature(logits: &mut [f32], temperature: f32) {
    for x in logits {
        *x /= temperature;
    }
}
