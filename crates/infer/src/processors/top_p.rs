use super::scratch::{Scratch, Softmax, collect_keys, order_descending, smallest_prefix, token_of};

/// Keeps the fewest tokens whose probabilities sum to at least `p`; 1 keeps all.
///
/// Of tokens that are equally likely, those with lower ids are kept first.
///
/// # Source
/// - Holtzman et al. 2020, The Curious Case of Neural Text Degeneration, arXiv:1904.09751
/// - reference: transformers `TopPLogitsWarper`; golden `fixtures/sampling`
pub fn top_p(logits: &mut [f32], p: f32, scratch: &mut Scratch) {
    if p >= 1.0 {
        return;
    }
    let Some(softmax) = Softmax::of(logits, &mut scratch.weights) else {
        return;
    };
    collect_keys(&mut scratch.keys, logits, order_descending);
    let mass = f64::from(p) * softmax.total;
    let kept = smallest_prefix(&mut scratch.keys, |token| scratch.weights[token], mass);
    for &key in &scratch.keys[kept..] {
        logits[token_of(key) as usize] = f32::NEG_INFINITY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(probs: &[f32], p: f32) -> Vec<usize> {
        let mut logits: Vec<f32> = probs.iter().map(|p| p.ln()).collect();
        top_p(&mut logits, p, &mut Scratch::default());
        (0..logits.len())
            .filter(|&i| logits[i].is_finite())
            .collect()
    }

    #[test]
    fn keeps_the_token_that_crosses_the_border() {
        let probs = [0.05, 0.5, 0.15, 0.3];
        assert_eq!(kept(&probs, 0.49), [1]);
        assert_eq!(kept(&probs, 0.51), [1, 3]);
        assert_eq!(kept(&probs, 0.81), [1, 2, 3]);
        assert_eq!(kept(&probs, 0.96), [0, 1, 2, 3]);
    }

    #[test]
    fn always_keeps_the_most_likely_token() {
        assert_eq!(kept(&[0.25, 0.25, 0.5], 0.0), [2]);
        assert_eq!(kept(&[0.5, 0.5], 0.0), [0]);
        assert_eq!(kept(&[1.0], 0.3), [0]);
        top_p(&mut [], 0.5, &mut Scratch::default());
    }

    #[test]
    fn removed_tokens_stay_removed_and_do_not_count() {
        assert_eq!(kept(&[0.0, 0.6, 0.0, 0.4], 0.99), [1, 3]);
    }
}
