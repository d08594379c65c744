//! From logits to one token: the most likely one, or a draw.

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::processors::{Scratch, Softmax};

/// What the random numbers of this crate are for, as a part of their key.
const PURPOSE: &[u8; 8] = b"sampling";

/// 32-bit words in a ChaCha block: each step has a block of its own.
const BLOCK_WORDS: u128 = 16;

/// The random number in `[0, 1)` that belongs to a step of a request.
///
/// It is a function of its arguments, not of a generator's history, so a request draws the same
/// numbers alone, in any batch and after a restart.
/// The key of ChaCha12 holds the seed and the purpose, `index` selects the stream, `step` the block.
#[must_use]
pub fn uniform(seed: u64, index: u64, step: u64) -> f64 {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(PURPOSE);
    let mut rng = ChaCha12Rng::from_seed(key);
    rng.set_stream(index);
    rng.set_word_pos(u128::from(step) * BLOCK_WORDS);
    #[expect(clippy::cast_precision_loss, reason = "53 bits are exact in an f64")]
    let mantissa = (rng.next_u64() >> 11) as f64;
    mantissa * 2.0_f64.powi(-53)
}

/// The most likely token, the lowest id of those tied; `None` when no token is left.
///
/// # Source
/// - reference: `torch.argmax`, which returns the first of equal maxima
#[must_use]
pub fn argmax(logits: &[f32]) -> Option<u32> {
    let mut best = (None, f32::NEG_INFINITY);
    for (token, &x) in (0..).zip(logits) {
        if x > best.1 {
            best = (Some(token), x);
        }
    }
    best.0
}

/// The token at which the cumulative probability, in order of ids, passes `uniform`.
///
/// `None` when no token is left, or when the largest logit is infinite.
#[must_use]
pub fn inverse_cdf(logits: &[f32], uniform: f64, scratch: &mut Scratch) -> Option<u32> {
    let softmax = Softmax::of(logits, &mut scratch.weights)?;
    let target = uniform * softmax.total;
    let mut sum = 0.0;
    let mut last = None;
    for (token, &weight) in (0..).zip(&scratch.weights) {
        if weight > 0.0 {
            sum += f64::from(weight);
            last = Some(token);
            if sum > target {
                break;
            }
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn argmax_takes_the_first_of_equals() {
        assert_eq!(argmax(&[0.0, 3.0, 3.0, -1.0]), Some(1));
        assert_eq!(argmax(&[f32::NEG_INFINITY, -5.0]), Some(1));
        assert_eq!(argmax(&[f32::NEG_INFINITY; 3]), None);
        assert_eq!(argmax(&[]), None);
    }

    #[test]
    fn inverse_cdf_walks_the_ids_in_order() {
        let logits: Vec<f32> = [0.25, 0.0, 0.5, 0.25]
            .iter()
            .map(|p: &f32| p.ln())
            .collect();
        let mut scratch = Scratch::default();
        let mut at = |u| inverse_cdf(&logits, u, &mut scratch);
        assert_eq!(at(0.0), Some(0));
        assert_eq!(at(0.249), Some(0));
        assert_eq!(at(0.251), Some(2));
        assert_eq!(at(0.749), Some(2));
        assert_eq!(at(0.751), Some(3));
        assert_eq!(at(1.0), Some(3));
        assert_eq!(
            inverse_cdf(&[f32::NEG_INFINITY], 0.5, &mut Scratch::default()),
            None
        );
    }

    #[test]
    fn numbers_depend_on_seed_request_and_step_alone() {
        let first = uniform(1, 2, 3);
        assert!((0.0..1.0).contains(&first));
        assert_eq!(first, uniform(1, 2, 3));
        for other in [
            uniform(2, 2, 3),
            uniform(1, 3, 3),
            uniform(1, 2, 4),
            uniform(2, 1, 3),
        ] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn numbers_stay_what_they_are() {
        // A change here changes the text of every seeded generation.
        // The numbers are those of a plain ChaCha12 after the definition, RFC 8439 with 12 rounds,
        // a 64-bit counter and a 64-bit stream.
        let got = [
            uniform(0, 0, 0),
            uniform(0, 0, 1),
            uniform(7, 1, 0),
            uniform(u64::MAX, 9, 1 << 40),
        ];
        let expected = [
            0.21849694366375694,
            0.2972392834540818,
            0.06581610813256422,
            0.9427299335945362,
        ];
        assert_eq!(got, expected);
    }
}
