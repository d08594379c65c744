//! Dropout whose mask is a function of a key, the row and the column, and so never stored.

use burn::tensor::{Tensor, TensorData};

use crate::simd::{Kernel, Simd, dispatch};

/// Which inputs of an adapter are dropped.
///
/// Input `(row, column)` is dropped where a hash of `(key, row, column)` falls below `p`; the
/// others are divided by `1 − p`.
///
/// # Source
/// - Srivastava et al. 2014, Dropout, JMLR 15, §4 (scaled in training, as torch does)
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoraDropout {
    /// The probability that an input is dropped, `0..=1`.
    pub p: f64,
    /// Chooses the random numbers: one key for each module and step.
    pub key: u64,
}

impl LoraDropout {
    /// `x` with its inputs dropped; `rows` says which rows of the whole matrix those of `x` are,
    /// all of them in order if absent.
    ///
    /// # Shapes
    /// - `x`: `[rows, d_in]`; returns the same shape and dtype
    ///
    /// # Panics
    /// When `p` is not a probability, or `rows` has not one entry for each row of `x`.
    pub fn apply(self, x: Tensor<2>, rows: Option<&[usize]>) -> Tensor<2> {
        let [count, width] = x.dims();
        assert!(
            rows.is_none_or(|rows| rows.len() == count),
            "dropout: one number for each row"
        );
        let mask = Mask::new(self);
        let mut factors = vec![1.0; count * width];
        for (index, factors) in factors.chunks_exact_mut(width.max(1)).enumerate() {
            mask.apply(rows.map_or(index, |rows| rows[index]), factors);
        }
        let place = (&x.device(), x.dtype());
        x * Tensor::from_data(TensorData::new(factors, [count, width]), place)
    }
}

/// The random bits of a [`LoraDropout`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Mask {
    key: u64,
    /// Numbers below this are dropped.
    threshold: u32,
    scale: f32,
}

impl Mask {
    /// # Panics
    /// When `p` is not a probability.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a probability times 2³², and a factor rounded to f32"
    )]
    pub(super) fn new(LoraDropout { p, key }: LoraDropout) -> Self {
        assert!(
            (0.0..=1.0).contains(&p),
            "dropout: p must lie in 0..=1, got {p}"
        );
        Self {
            key,
            threshold: (p * 4_294_967_296.0) as u32,
            scale: if p < 1.0 {
                (1.0 / (1.0 - p)) as f32
            } else {
                0.0
            },
        }
    }

    /// Drops and scales the numbers of a row in place.
    pub(super) fn apply(self, row: usize, values: &mut [f32]) {
        dispatch(Apply {
            bits: RowBits::new(self.key, row),
            mask: self,
            values,
        });
    }
}

/// The random numbers of one row: 64 bits of it and of the key, hashed with each column.
#[derive(Debug, Clone, Copy)]
struct RowBits {
    low: u32,
    high: u32,
}

impl RowBits {
    /// The finaliser of `SplitMix64` (Steele et al. 2014) on the row's place in the key's sequence.
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of 64 bits")]
    fn new(key: u64, row: usize) -> Self {
        let mut x = key.wrapping_add(
            (row as u64)
                .wrapping_add(1)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15),
        );
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
        Self {
            low: x as u32,
            high: (x >> 32) as u32,
        }
    }

    /// A 32-bit finaliser of two multiplications, the row's bits mixed in before each.
    #[inline(always)]
    fn at(self, column: u32) -> u32 {
        let mut x = column ^ self.low;
        x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d) ^ self.high;
        x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
        x ^ (x >> 16)
    }
}

struct Apply<'a> {
    bits: RowBits,
    mask: Mask,
    values: &'a mut [f32],
}

impl Kernel for Apply<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Mask {
            threshold, scale, ..
        } = self.mask;
        for (column, value) in (0u32..).zip(self.values) {
            let factor = if self.bits.at(column) < threshold {
                0.0
            } else {
                scale
            };
            *value *= factor;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factors(p: f64, key: u64, row: usize, width: usize) -> Vec<f32> {
        let mut values = vec![1.0; width];
        Mask::new(LoraDropout { p, key }).apply(row, &mut values);
        values
    }

    #[test]
    fn shares_are_those_of_the_probability_in_rows_and_in_columns() {
        let (rows, width, p) = (400, 400, 0.25);
        let dropped: Vec<Vec<bool>> = (0..rows)
            .map(|row| {
                factors(p, 7, row, width)
                    .iter()
                    .map(|&f| f == 0.0)
                    .collect()
            })
            .collect();
        // Binomial: the deviation is √(p·(1 − p)·n); five of them.
        let check = |count: usize, n: usize| {
            let deviation = (p * (1.0 - p) * n as f64).sqrt();
            assert!(
                (count as f64 - p * n as f64).abs() < 5.0 * deviation,
                "{count} of {n}"
            );
        };
        check(
            dropped.iter().flatten().filter(|&&d| d).count(),
            rows * width,
        );
        for index in 0..rows {
            check(dropped[index].iter().filter(|&&d| d).count(), width);
            check(dropped.iter().filter(|row| row[index]).count(), rows);
        }
        // Neighbours, in either direction, are independent: both dropped with p².
        let both = |pairs: usize, count: usize| {
            let q = p * p;
            let deviation = (q * (1.0 - q) * pairs as f64).sqrt();
            assert!(
                (count as f64 - q * pairs as f64).abs() < 6.0 * deviation,
                "{count}"
            );
        };
        let along = dropped
            .iter()
            .map(|row| row.windows(2).filter(|w| w[0] && w[1]).count());
        both(rows * (width - 1), along.sum());
        let across = dropped
            .windows(2)
            .map(|w| w[0].iter().zip(&w[1]).filter(|(a, b)| **a && **b).count());
        both((rows - 1) * width, across.sum());
    }

    #[test]
    fn keys_differ_and_the_ends_of_the_range_drop_nothing_and_all() {
        assert_eq!(factors(0.5, 3, 2, 64), factors(0.5, 3, 2, 64));
        assert_ne!(factors(0.5, 3, 2, 64), factors(0.5, 4, 2, 64));
        assert_ne!(factors(0.5, 3, 2, 64), factors(0.5, 3, 3, 64));
        assert!(factors(0.0, 1, 0, 99).iter().all(|&f| f == 1.0));
        assert!(factors(1.0, 1, 0, 99).iter().all(|&f| f == 0.0));
        assert!(
            factors(0.2, 1, 0, 99)
                .iter()
                .all(|&f| f == 0.0 || f == 1.25)
        );
    }
}
