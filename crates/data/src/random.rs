//! Random numbers without a generator: each is a function of a seed, a purpose, an epoch and an index.
//!
//! Nothing has to be saved to go on after an interruption, and no draw depends on how many were made before.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A number that is uniform over all of `u64`.
pub(crate) fn draw(seed: u64, purpose: &str, epoch: u64, index: u64) -> u64 {
    let mut key = Vec::with_capacity(purpose.len() + 16);
    key.extend_from_slice(&epoch.to_le_bytes());
    key.extend_from_slice(&index.to_le_bytes());
    key.extend_from_slice(purpose.as_bytes());
    xxh3_64_with_seed(&key, seed)
}

/// Maps a number uniform over `u64` to one below `bound`, which is at least 1.
///
/// The high half of the 128-bit product; the probabilities of two results differ by at most 2⁻⁶⁴.
pub(crate) fn below(number: u64, bound: usize) -> usize {
    let product = u128::from(number) * bound as u128;
    #[allow(
        clippy::cast_possible_truncation,
        reason = "the high half is below `bound`"
    )]
    let high = (product >> 64) as usize;
    high
}

/// Maps a number uniform over `u64` to `[0, 1)`.
pub(crate) fn unit(number: u64) -> f64 {
    // 53 bits are what a double holds.
    (number >> 11) as f64 / (1_u64 << 53) as f64
}

/// Shuffles by Fisher and Yates.
pub(crate) fn shuffle<T>(items: &mut [T], seed: u64, purpose: &str, epoch: u64, start: u64) {
    for last in (1..items.len()).rev() {
        let number = draw(seed, purpose, epoch, start.wrapping_add(last as u64));
        items.swap(last, below(number, last + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_uniform_and_depend_on_every_argument() {
        let base = draw(1, "a", 2, 3);
        for other in [
            draw(2, "a", 2, 3),
            draw(1, "b", 2, 3),
            draw(1, "a", 3, 3),
            draw(1, "a", 2, 4),
        ] {
            assert_ne!(base, other);
        }
        let mut counts = [0_u32; 8];
        for index in 0..8000 {
            counts[below(draw(7, "uniform", 0, index), 8)] += 1;
        }
        // Standard deviation of each count: sqrt(8000 · 1/8 · 7/8) = 29.6; five of them.
        assert!(
            counts.iter().all(|count| count.abs_diff(1000) < 148),
            "{counts:?}"
        );
    }

    #[test]
    fn every_order_of_three_comes_equally_often() {
        let mut counts = std::collections::BTreeMap::new();
        for epoch in 0..6000 {
            let mut items = [0, 1, 2];
            shuffle(&mut items, 5, "orders", epoch, 0);
            *counts.entry(items).or_insert(0_u32) += 1;
        }
        assert_eq!(counts.len(), 6);
        // Standard deviation: sqrt(6000 · 1/6 · 5/6) = 28.9; five of them.
        assert!(
            counts.values().all(|count| count.abs_diff(1000) < 145),
            "{counts:?}"
        );
    }
}
