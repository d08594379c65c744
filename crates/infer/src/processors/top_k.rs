use super::scratch::{Scratch, collect_keys, order_descending, token_of};

/// Keeps the `k` most likely tokens and every token tied with the last of them; 0 keeps all.
///
/// # Source
/// - Fan et al. 2018, Hierarchical Neural Story Generation, arXiv:1805.04833
/// - reference: transformers `TopKLogitsWarper`; golden `fixtures/sampling`
pub fn top_k(logits: &mut [f32], k: usize, scratch: &mut Scratch) {
    if k == 0 || k >= logits.len() {
        return;
    }
    collect_keys(&mut scratch.keys, logits, order_descending);
    if k >= scratch.keys.len() {
        return;
    }
    let (_, &mut last, _) = scratch.keys.select_nth_unstable(k - 1);
    let smallest = logits[token_of(last) as usize];
    for x in logits {
        if *x < smallest {
            *x = f32::NEG_INFINITY;
        }
    }
}
