//! Parameters of 16 bits that small updates still move.

use burn::tensor::bf16;
use rayon::prelude::*;

use super::rule::TASK;
use crate::random::mixed;

/// The bits of an f32 that bf16 does not have.
const DROPPED: u32 = 16;

/// Numbers that one random word is for.
const OF_WORD: usize = 4;

/// Rounds to bf16 up or down at random, so that the mean of many roundings is the number itself.
///
/// A number `x` between its neighbours `a` and `b` in bf16 becomes `b` with probability
/// `(x − a) / (b − a)`.
/// To the nearest, an update below half the distance of neighbours, `2⁻⁹` of the parameter, would be
/// lost, and every one after it.
/// The random numbers are functions of `key` and the place.
///
/// # Source
/// - Zamirai et al. 2020, Revisiting BFloat16 Training, arXiv:2010.06192
pub(super) fn stochastic_bf16(values: &[f32], key: u64) -> Vec<bf16> {
    let mut rounded = vec![bf16::ZERO; values.len()];
    let tasks = rounded.par_chunks_mut(TASK).zip(values.par_chunks(TASK));
    tasks.enumerate().for_each(|(task, (rounded, values))| {
        let first = task * TASK / OF_WORD;
        let words = rounded.chunks_mut(OF_WORD).zip(values.chunks(OF_WORD));
        for (index, (rounded, values)) in words.enumerate() {
            let mut word = mixed(key, (first + index) as u64);
            for (rounded, value) in rounded.iter_mut().zip(values) {
                *rounded = round(*value, word);
                word >>= DROPPED;
            }
        }
    });
    rounded
}

/// One number, by the lowest bits of `random`.
#[expect(clippy::cast_possible_truncation, reason = "the lowest bits are meant")]
fn round(value: f32, random: u64) -> bf16 {
    if !value.is_finite() {
        return bf16::from_f32(value);
    }
    let noise = u32::from(random as u16);
    bf16::from_bits(((value.to_bits() + noise) >> DROPPED) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_bf16_has_stays_and_the_mean_of_the_rest_is_right() {
        let exact = [0.0_f32, -0.0, 1.0, -2.5, 1e-40, f32::INFINITY, 3.0e38];
        let exact = exact.map(|x| bf16::from_f32(x).to_f32());
        for key in 0..64 {
            let rounded = stochastic_bf16(&exact, key);
            let bits: Vec<u32> = rounded.iter().map(|x| x.to_f32().to_bits()).collect();
            assert_eq!(bits, exact.map(f32::to_bits), "{key}");
        }
        assert!(stochastic_bf16(&[f32::NAN], 0)[0].is_nan());
        // A quarter of the way from 1 to its neighbour 1 + 2⁻⁷, on both sides of zero.
        let quarter = 1.0 + 2_f32.powi(-9);
        for sign in [1.0, -1.0] {
            let count = 40_000;
            let rounded = stochastic_bf16(&vec![sign * quarter; count], 3);
            let far = rounded.iter().filter(|x| x.to_f32() != sign).count();
            let share = far as f64 / count as f64;
            // Five standard errors of √(0.25·0.75/40000).
            assert!((share - 0.25).abs() < 0.011, "{share}");
        }
    }

    #[test]
    fn the_cut_into_tasks_changes_nothing_and_keys_do() {
        let values: Vec<f32> = (0..TASK + 7).map(|i| 1.0 + i as f32 * 1e-6).collect();
        let whole = stochastic_bf16(&values, 9);
        assert_eq!(whole[..TASK], stochastic_bf16(&values[..TASK], 9));
        assert_ne!(whole, stochastic_bf16(&values, 10));
    }
}
