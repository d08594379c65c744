//! Working memory and arithmetic that the processors share.

/// Buffers that processors reuse from step to step, so that a decode step allocates nothing.
#[derive(Debug, Clone, Default)]
pub struct Scratch {
    /// Sort keys: what to order by in the upper half, the token id in the lower.
    pub(crate) keys: Vec<u64>,
    /// `exp(x − max)` of every token of the vocabulary.
    pub(crate) weights: Vec<f32>,
}

/// The constants of a softmax, `p(x) = exp(x − max) / total`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Softmax {
    /// The largest logit.
    pub(crate) max: f32,
    /// Sum of `exp(x − max)`.
    pub(crate) total: f64,
    /// Sum of `(x − max)·exp(x − max)`.
    weighted: f64,
}

impl Softmax {
    /// Reads the constants off `logits` and leaves every token's weight in `weights`.
    ///
    /// `None` when no token is left.
    pub(crate) fn of(logits: &[f32], weights: &mut Vec<f32>) -> Option<Self> {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if max == f32::NEG_INFINITY {
            return None;
        }
        weights.clear();
        let (mut total, mut weighted) = (0.0, 0.0);
        for &x in logits {
            let shifted = x - max;
            let weight = if x == f32::NEG_INFINITY {
                0.0
            } else {
                shifted.exp()
            };
            if weight > 0.0 {
                total += f64::from(weight);
                weighted += f64::from(weight) * f64::from(shifted);
            }
            weights.push(weight);
        }
        Some(Self {
            max,
            total,
            weighted,
        })
    }

    /// `ln p` of a logit.
    pub(crate) fn log_prob(&self, logit: f32) -> f64 {
        f64::from(logit) - f64::from(self.max) - self.total.ln()
    }

    /// `−Σ p·ln p` in nats.
    pub(crate) fn entropy(&self) -> f64 {
        self.total.ln() - self.weighted / self.total
    }
}

/// Removes every token with a logit below `threshold`, but never the most likely one.
pub(crate) fn remove_below(logits: &mut [f32], threshold: f64, max: f32) {
    for x in logits {
        if f64::from(*x) < threshold && *x < max {
            *x = f32::NEG_INFINITY;
        }
    }
}

/// Fills `keys` with the tokens that are left, each under the rank that `rank` gives its logit.
pub(crate) fn collect_keys(keys: &mut Vec<u64>, logits: &[f32], rank: impl Fn(f32) -> u32) {
    keys.clear();
    keys.extend(
        (0_u32..)
            .zip(logits)
            .filter(|&(_, &x)| x != f32::NEG_INFINITY)
            .map(|(token, &x)| u64::from(rank(x)) << 32 | u64::from(token)),
    );
}

/// Rank of a number in ascending order; `-0.0` and `0.0` are equal.
pub(crate) fn order_ascending(x: f32) -> u32 {
    let bits = (x + 0.0).to_bits();
    if bits >> 31 == 1 {
        !bits
    } else {
        bits | 1 << 31
    }
}

/// Rank of a number in descending order.
pub(crate) fn order_descending(x: f32) -> u32 {
    !order_ascending(x)
}

/// The token id of a key.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the lower half of a key is the token id"
)]
pub(crate) fn token_of(key: u64) -> u32 {
    key as u32
}

/// Moves to the front the fewest keys, in ascending order, whose weights reach `mass`.
///
/// Returns how many they are, at least one of a list that is not empty.
/// A key counts when the keys before it weigh less than `mass`.
/// The range that holds the border is halved again and again, so the expected time is linear.
pub(crate) fn smallest_prefix(keys: &mut [u64], weight: impl Fn(usize) -> f32, mass: f64) -> usize {
    let (mut low, mut high, mut before) = (0, keys.len(), 0.0);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        keys[low..high].select_nth_unstable(middle - low);
        let lower: f64 = keys[low..middle]
            .iter()
            .map(|&key| f64::from(weight(token_of(key) as usize)))
            .sum();
        if before + lower < mass {
            before += lower;
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn entropy_of_even_odds_is_the_logarithm_of_their_number() {
        let softmax = Softmax::of(&[2.5, 2.5, f32::NEG_INFINITY, 2.5], &mut Vec::new()).unwrap();
        assert!((softmax.entropy() - 3.0_f64.ln()).abs() < 1e-12);
        assert!((softmax.log_prob(2.5) + 3.0_f64.ln()).abs() < 1e-12);
        assert!(Softmax::of(&[f32::NEG_INFINITY], &mut Vec::new()).is_none());
    }

    proptest! {
        #[test]
        fn ranks_follow_the_numbers(a in -1e30_f32..1e30, b in -1e30_f32..1e30) {
            prop_assert_eq!(order_ascending(a).cmp(&order_ascending(b)), a.partial_cmp(&b).unwrap());
            prop_assert_eq!(order_descending(a).cmp(&order_descending(b)), b.partial_cmp(&a).unwrap());
        }

        #[test]
        fn prefix_equals_a_sorted_walk(
            // Whole numbers, so that sums are exact in any order.
            weights in prop::collection::vec(0_u8..9, 1..80),
            ranks in prop::collection::vec(0_u32..6, 80),
            share in 0.0_f64..1.1,
        ) {
            let weight = |token: usize| f32::from(weights[token]);
            let mut keys: Vec<u64> = (0..weights.len())
                .map(|token| u64::from(ranks[token]) << 32 | token as u64)
                .collect();
            let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
            let mass = (share * total).round();

            let mut sorted = keys.clone();
            sorted.sort_unstable();
            let mut before = 0.0;
            let mut expected = 0;
            for &key in &sorted {
                if expected > 0 && before >= mass {
                    break;
                }
                before += f64::from(weight(token_of(key) as usize));
                expected += 1;
            }

            let count = smallest_prefix(&mut keys, weight, mass);
            prop_assert_eq!(count, expected);
            let mut kept = keys[..count].to_vec();
            kept.sort_unstable();
            prop_assert_eq!(kept, &sorted[..count]);
        }
    }
}
