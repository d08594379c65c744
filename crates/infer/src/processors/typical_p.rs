use super::scratch::{Scratch, Softmax, collect_keys, order_ascending, smallest_prefix, token_of};

/// Keeps the tokens whose surprise is nearest to the entropy until they sum to `mass`.
///
/// Every token as near as the last of them is kept too.
///
/// # Source
/// - Meister et al. 2023, Locally Typical Sampling, arXiv:2202.00666
/// - reference: transformers `TypicalLogitsWarper`; golden `fixtures/sampling`
pub fn typical_p(logits: &mut [f32], mass: f32, scratch: &mut Scratch) {
    let Some(softmax) = Softmax::of(logits, &mut scratch.weights) else {
        return;
    };
    let entropy = softmax.entropy();
    #[expect(
        clippy::cast_possible_truncation,
        reason = "an order of logits needs no more than f32"
    )]
    let distance = |x: f32| (-softmax.log_prob(x) - entropy).abs() as f32;
    collect_keys(&mut scratch.keys, logits, |x| order_ascending(distance(x)));
    let mass = f64::from(mass) * softmax.total;
    let kept = smallest_prefix(&mut scratch.keys, |token| scratch.weights[token], mass);
    let Some(farthest) = scratch.keys[..kept].iter().max().map(|key| key >> 32) else {
        return;
    };
    for &key in &scratch.keys[kept..] {
        if key >> 32 > farthest {
            logits[token_of(key) as usize] = f32::NEG_INFINITY;
        }
    }
}
