//! Orders that are functions of a seed, not of a generator's history.

/// The increment of SplitMix64: the odd integer nearest to 2⁶⁴ divided by the golden ratio.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// What a random order is for: orders of different purposes have nothing to do with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The order of the examples.
    Examples = 1,
    /// The order of the batches.
    Batches = 2,
}

/// A permutation of `0..n` for an epoch.
///
/// Each index has the key `hash(seed, epoch, index)`; the order is that of the keys, so it is the same on every
/// machine, and needs no state to resume.
///
/// # Source
/// - Steele, Lea and Flood 2014, Fast Splittable Pseudorandom Number Generators, OOPSLA: the mixing function
///
/// # Examples
/// ```
/// use flametune_data::permutation;
///
/// assert_eq!(permutation(7, 0, 5), permutation(7, 0, 5));
/// let mut sorted = permutation(7, 1, 5);
/// sorted.sort_unstable();
/// assert_eq!(sorted, [0, 1, 2, 3, 4]);
/// ```
pub fn permutation(seed: u64, epoch: u64, n: usize) -> Vec<usize> {
    shuffled(seed, Purpose::Examples, epoch, n)
}

pub(super) fn shuffled(seed: u64, purpose: Purpose, epoch: u64, n: usize) -> Vec<usize> {
    let key = [purpose as u64, epoch].into_iter().fold(seed, mixed);
    let mut keyed: Vec<(u64, usize)> = (0..n)
        .zip(0_u64..)
        .map(|(index, word)| (mixed(key, word), index))
        .collect();
    keyed.sort_unstable();
    keyed.into_iter().map(|(_, index)| index).collect()
}

/// Folds a word into a hash.
pub(super) fn mixed(hash: u64, word: u64) -> u64 {
    finalized(hash.wrapping_add(GAMMA) ^ finalized(word.wrapping_add(GAMMA)))
}

/// The output function of SplitMix64.
fn finalized(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first numbers of SplitMix64 seeded with 0, as its authors' implementation prints them.
    #[test]
    fn the_mixing_function_is_that_of_splitmix64() {
        assert_eq!(finalized(GAMMA), 0xe220_a839_7b1d_cdaf);
        assert_eq!(finalized(GAMMA.wrapping_mul(2)), 0x6e78_9e6a_a1b9_65f4);
        assert_eq!(finalized(GAMMA.wrapping_mul(3)), 0x06c4_5d18_8009_454f);
    }

    #[test]
    fn orders_differ_by_seed_epoch_and_purpose() {
        let orders = [
            shuffled(0, Purpose::Examples, 0, 50),
            shuffled(1, Purpose::Examples, 0, 50),
            shuffled(0, Purpose::Examples, 1, 50),
            shuffled(0, Purpose::Batches, 0, 50),
            shuffled(u64::MAX, Purpose::Batches, u64::MAX, 50),
        ];
        for (i, a) in orders.iter().enumerate() {
            let mut sorted = a.clone();
            sorted.sort_unstable();
            assert!(sorted.into_iter().eq(0..50));
            assert!(orders[..i].iter().all(|b| a != b), "{i}");
        }
    }

    /// Over many seeds each index comes first about equally often: 600 expected, standard deviation about 22.
    #[test]
    fn every_index_comes_first_equally_often() {
        let mut first = [0_usize; 5];
        for seed in 0..3000 {
            first[permutation(seed, 0, 5)[0]] += 1;
        }
        assert!(
            first.iter().all(|&count| (500..700).contains(&count)),
            "{first:?}"
        );
    }
}
