use super::scratch::{Scratch, Softmax, collect_keys, order_descending, token_of};

/// Number of most likely tokens whose entropy counts.
const CANDIDATES: usize = 100;

/// Keeps the most likely tokens as long as their share of the entropy is at most `h`.
///
/// The entropy is that of the 100 most likely tokens, and the most likely one is always kept.
///
/// # Source
/// - Potraghloo et al. 2025, Top-H Decoding, arXiv:2509.02510
/// - reference: transformers `TopHLogitsWarper`; golden `fixtures/sampling`
pub fn top_h(logits: &mut [f32], h: f32, scratch: &mut Scratch) {
    collect_keys(&mut scratch.keys, logits, order_descending);
    let keys = &mut scratch.keys;
    if keys.len() > CANDIDATES {
        keys.select_nth_unstable(CANDIDATES);
        keys.truncate(CANDIDATES);
    }
    keys.sort_unstable();
    let likely: Vec<f32> = keys
        .iter()
        .map(|&key| logits[token_of(key) as usize])
        .collect();
    let Some(softmax) = Softmax::of(&likely, &mut scratch.weights) else {
        return;
    };
    let limit = f64::from(h) * softmax.entropy();
    let mut sum = 0.0;
    let kept = likely
        .iter()
        .take_while(|&&x| {
            let log_prob = softmax.log_prob(x);
            sum -= log_prob.exp() * log_prob;
            sum <= limit
        })
        .count()
        .max(1);
    logits.fill(f32::NEG_INFINITY);
    for (&key, &x) in keys.iter().zip(&likely).take(kept) {
        logits[token_of(key) as usize] = x;
    }
}
