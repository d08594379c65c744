//! Random numbers as functions of what they are for, so that a resumed run draws the same.

/// Mixes a word into a key (the finalizer of SplitMix64).
///
/// # Source
/// - Steele, Lea and Flood 2014, Fast Splittable Pseudorandom Number Generators, OOPSLA, §4
pub(crate) fn mixed(key: u64, word: u64) -> u64 {
    let mut z = key
        ^ word
            .wrapping_add(0x9e37_79b9_7f4a_7c15)
            .wrapping_mul(0xd1b5_4a32_d192_ed03);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number in `[0, 1)`.
#[expect(clippy::cast_precision_loss, reason = "53 bits fit an f64")]
pub(crate) fn uniform(key: u64, place: u64) -> f64 {
    (mixed(key, place) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_even_and_differ_by_key() {
        let numbers: Vec<f64> = (0..10_000).map(|place| uniform(7, place)).collect();
        let mean = numbers.iter().sum::<f64>() / 10_000.0;
        // The standard error is 0.0029; four of them.
        assert!((mean - 0.5).abs() < 0.0116, "{mean}");
        let below = numbers.iter().filter(|x| **x < 0.1).count();
        // 1000 are expected, with a deviation of 30.
        assert!((880..1120).contains(&below), "{below}");
        assert_ne!(uniform(7, 0), uniform(8, 0));
    }
}
