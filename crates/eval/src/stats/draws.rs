//! Random numbers without a generator: functions of a seed, a purpose and two indices.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A number that is uniform over all of `u64`.
pub(crate) fn draw(seed: u64, purpose: &str, round: u64, index: u64) -> u64 {
    let mut key = Vec::with_capacity(purpose.len() + 16);
    key.extend_from_slice(&round.to_le_bytes());
    key.extend_from_slice(&index.to_le_bytes());
    key.extend_from_slice(purpose.as_bytes());
    xxh3_64_with_seed(&key, seed)
}

/// Maps a number uniform over `u64` to one below `bound`, which is at least 1: the high half of the product.
pub(crate) fn below(number: u64, bound: usize) -> usize {
    #[allow(
        clippy::cast_possible_truncation,
        reason = "the high half is below `bound`"
    )]
    let high = ((u128::from(number) * bound as u128) >> 64) as usize;
    high
}
