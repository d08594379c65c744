//! Random numbers as functions of where they are used, not of what was drawn before.

use burn::tensor::{DType, Device, Tensor, TensorData};

/// An unlimited table of random numbers; a key chooses the table, an index the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stream(u64);

/// The finaliser of `SplitMix64`: a bijection that spreads every bit over all others.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Stream {
    /// The table that belongs to all these numbers in this order.
    pub(crate) fn new(keys: &[u64]) -> Self {
        let key = keys.iter().fold(0, |state: u64, &key| {
            mix(state.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ mix(key))
        });
        Self(key)
    }

    /// The number that chooses the table.
    pub(crate) fn key(self) -> u64 {
        self.0
    }

    /// The number at `index`, all 64 bits random (Steele et al. 2014, `SplitMix64`, whose state
    /// after `index` steps is a product).
    pub(crate) fn bits(self, index: u64) -> u64 {
        mix(self
            .0
            .wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// A number in `[0, 1)`.
    #[expect(clippy::cast_precision_loss, reason = "53 bits are exact")]
    pub(crate) fn uniform(self, index: u64) -> f64 {
        (self.bits(index) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A standard normal number (Box and Muller).
    pub(crate) fn normal(self, index: u64) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform(2 * index)).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform(2 * index + 1)).cos()
    }

    fn tensor<const D: usize>(
        shape: [usize; D],
        (device, dtype): (&Device, DType),
        value: impl FnMut(u64) -> f64,
    ) -> Tensor<D> {
        let count: usize = shape.iter().product();
        #[expect(
            clippy::cast_possible_truncation,
            reason = "rounded to the parameters' type"
        )]
        let values: Vec<f32> = (0..count as u64).map(value).map(|x| x as f32).collect();
        Tensor::from_data(TensorData::new(values, shape), (device, dtype))
    }

    /// A tensor of numbers in `[-bound, bound)`.
    pub(crate) fn uniform_tensor<const D: usize>(
        self,
        shape: [usize; D],
        bound: f64,
        place: (&Device, DType),
    ) -> Tensor<D> {
        Self::tensor(shape, place, |i| (2.0 * self.uniform(i) - 1.0) * bound)
    }

    /// A matrix of numbers in `±1/√columns`: He's initialisation with slope `√5`, which torch's linear
    /// layers use.
    ///
    /// # Source
    /// - He et al. 2015, arXiv:1502.01852, eq. (14) with `a = √5`
    pub(crate) fn kaiming_uniform(self, shape: [usize; 2], place: (&Device, DType)) -> Tensor<2> {
        self.uniform_tensor(shape, fan_in_bound(shape[1]), place)
    }

    /// A tensor of normal numbers with mean zero.
    pub(crate) fn normal_tensor<const D: usize>(
        self,
        shape: [usize; D],
        std: f64,
        place: (&Device, DType),
    ) -> Tensor<D> {
        Self::tensor(shape, place, |i| self.normal(i) * std)
    }
}

/// The bound of torch's uniform initialisation of a layer with `fan_in` inputs, `1/√fan_in`.
#[expect(clippy::cast_precision_loss, reason = "widths are far below 2^52")]
pub(crate) fn fan_in_bound(fan_in: usize) -> f64 {
    1.0 / (fan_in as f64).sqrt()
}

/// A number that stands for a text (64-bit FNV-1a).
pub(crate) fn text_key(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_distributions() {
        let stream = Stream::new(&[1, 2]);
        let n = 100_000;
        let mean = |f: &dyn Fn(u64) -> f64| (0..n).map(f).sum::<f64>() / n as f64;
        // Standard errors: 0.29, 1 and 1.41 over the root of n, times five.
        assert!((mean(&|i| stream.uniform(i)) - 0.5).abs() < 5e-3);
        assert!(mean(&|i| stream.normal(i)).abs() < 1.6e-2);
        assert!((mean(&|i| stream.normal(i).powi(2)) - 1.0).abs() < 2.3e-2);
    }

    #[test]
    fn every_key_and_its_place_matter() {
        let first = |keys: &[u64]| Stream::new(keys).bits(0);
        let all = [
            first(&[1, 2]),
            first(&[2, 1]),
            first(&[1]),
            first(&[1, 2, 0]),
            first(&[]),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|b| a != b));
        }
        assert_ne!(text_key("q_proj"), text_key("k_proj"));
    }
}
