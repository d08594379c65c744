//! Log-probabilities of chosen tokens and their alternatives.

use crate::processors::{Scratch, Softmax, collect_keys, order_descending, token_of};

/// How likely the model found a token, before any option changed its logits.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// Natural logarithm of the chosen token's probability.
    pub logprob: f32,
    /// The most likely tokens with their log-probabilities, the most likely first.
    pub top: Vec<(u32, f32)>,
}

impl TokenLogprobs {
    /// Reads the log-probability of `token` and of the `top` most likely tokens off raw logits.
    ///
    /// Of tokens that are equally likely, those with lower ids come first.
    /// A token outside the vocabulary has the log-probability −∞.
    #[must_use]
    pub fn of(logits: &[f32], token: u32, top: usize, scratch: &mut Scratch) -> Self {
        let Some(softmax) = Softmax::of(logits, &mut scratch.weights) else {
            return Self {
                logprob: f32::NEG_INFINITY,
                top: Vec::new(),
            };
        };
        #[expect(
            clippy::cast_possible_truncation,
            reason = "logits are f32 to begin with"
        )]
        let logprob = |x: f32| softmax.log_prob(x) as f32;
        let keys = &mut scratch.keys;
        keys.clear();
        if top > 0 {
            collect_keys(keys, logits, order_descending);
            if top < keys.len() {
                keys.select_nth_unstable(top);
                keys.truncate(top);
            }
            keys.sort_unstable();
        }
        Self {
            logprob: logits
                .get(token as usize)
                .map_or(f32::NEG_INFINITY, |&x| logprob(x)),
            top: keys
                .iter()
                .map(|&key| (token_of(key), logprob(logits[token_of(key) as usize])))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_of_a_known_distribution() {
        let probs = [0.125_f32, 0.5, 0.125, 0.25];
        let logits: Vec<f32> = probs.iter().map(|p| p.ln() + 3.0).collect();
        let got = TokenLogprobs::of(&logits, 3, 3, &mut Scratch::default());
        assert!((got.logprob - 0.25_f32.ln()).abs() < 1e-6);
        let ids: Vec<u32> = got.top.iter().map(|t| t.0).collect();
        assert_eq!(ids, [1, 3, 0]);
        for (id, logprob) in got.top {
            assert!((logprob - probs[id as usize].ln()).abs() < 1e-6);
        }
    }

    #[test]
    fn more_alternatives_than_tokens_gives_all() {
        let got = TokenLogprobs::of(&[0.0, 0.0], 9, 5, &mut Scratch::default());
        assert_eq!(got.logprob, f32::NEG_INFINITY);
        assert_eq!(got.top.len(), 2);
        assert!(
            TokenLogprobs::of(&[0.0], 0, 0, &mut Scratch::default())
                .top
                .is_empty()
        );
    }
}
