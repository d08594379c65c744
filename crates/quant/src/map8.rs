//! Maps of 256 numbers for eight bits.

use std::fmt;
use std::sync::LazyLock;

use crate::linspace::linspace;

/// The decades of the dynamic maps.
const DECADES: [f32; 7] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];

/// 256 ascending numbers that 8-bit codes stand for.
///
/// A number goes to the nearest entry; one in the middle of two goes to the lower.
///
/// # Source
/// - Dettmers 2016, 8-Bit Approximations for Parallelism in Deep Learning, arXiv:1511.04561
/// - Dettmers et al. 2022, 8-bit Optimizers via Block-wise Quantization, arXiv:2110.02861
/// - reference: bitsandbytes `functional.py::{create_dynamic_map, create_linear_map}`; golden
///   `fixtures/quant/tables.safetensors`
///
/// # Examples
/// ```
/// use flametune_quant::Map8;
///
/// let map = Map8::dynamic_signed();
/// assert_eq!(map.decode(map.encode(0.0)), 0.0);
/// assert!((map.decode(map.encode(0.3)) - 0.3).abs() < 0.01);
/// ```
#[derive(Clone, PartialEq)]
pub struct Map8 {
    values: [f32; 256],
    /// The middles of neighbours, ascending, and an infinite last one.
    bounds: [f32; 256],
    /// The code of the lowest of all numbers that begin with the same 16 bits.
    ///
    /// No more than one middle lies among such numbers.
    first: Vec<u8>,
}

impl Map8 {
    /// The dynamic map for numbers of both signs: double quantization, first moments.
    ///
    /// Seven decades below 1, the highest divided into 64 steps and each lower one into half as
    /// many, of which the middles count; zero and 1 besides.
    pub fn dynamic_signed() -> &'static Self {
        static MAP: LazyLock<Map8> = LazyLock::new(|| Map8::new(dynamic(true)));
        &MAP
    }

    /// The dynamic map for numbers that are never negative: second moments.
    ///
    /// As the signed one, with twice the steps in each decade.
    pub fn dynamic_unsigned() -> &'static Self {
        static MAP: LazyLock<Map8> = LazyLock::new(|| Map8::new(dynamic(false)));
        &MAP
    }

    /// 127 even steps on each side of zero, which has two codes.
    pub fn linear() -> &'static Self {
        static MAP: LazyLock<Map8> = LazyLock::new(|| {
            let mut numbers = linspace(-1.0, 1.0, 255);
            numbers.push(0.0);
            Map8::new(numbers)
        });
        &MAP
    }

    fn new(mut numbers: Vec<f32>) -> Self {
        numbers.sort_by(f32::total_cmp);
        let mut values = [0.0; 256];
        for (value, number) in values.iter_mut().zip(numbers) {
            *value = number;
        }
        let mut bounds = [f32::INFINITY; 256];
        for (bound, pair) in bounds.iter_mut().zip(values.windows(2)) {
            *bound = (pair[0] + pair[1]) / 2.0;
        }
        let first = (0..=u16::MAX)
            .map(|top| search(&bounds, lowest(top)))
            .collect();
        Self {
            values,
            bounds,
            first,
        }
    }

    /// The number of each code, ascending.
    pub fn values(&self) -> &[f32; 256] {
        &self.values
    }

    /// The code of the number nearest to `x`.
    #[inline]
    pub fn encode(&self, x: f32) -> u8 {
        let [.., low, high] = x.to_bits().to_le_bytes();
        let first = self.first[usize::from(u16::from_le_bytes([low, high]))];
        first.wrapping_add(u8::from(self.bounds[usize::from(first)] < x))
    }

    /// The number that `code` stands for.
    #[inline]
    pub fn decode(&self, code: u8) -> f32 {
        self.values[usize::from(code)]
    }

    /// The farthest that a number from `least` to 1 lies from the nearest entry; `least` is -1 or
    /// 0.
    pub fn max_error(&self, least: f32) -> f32 {
        self.values
            .windows(2)
            .map(|pair| (pair[1] - pair[0]) / 2.0)
            .fold(0.0, f32::max)
            .max(self.values[0] - least)
            .max(1.0 - self.values[255])
    }
}

impl fmt::Debug for Map8 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Map8")
            .field("values", &self.values)
            .finish_non_exhaustive()
    }
}

/// The lowest f32 number whose upper half is `top`.
fn lowest(top: u16) -> f32 {
    let is_negative = top >> 15 == 1;
    let rest = if is_negative { 0xffff } else { 0 };
    f32::from_bits(u32::from(top) << 16 | rest)
}

/// How many of the first 255 middles lie below `x`.
fn search(bounds: &[f32; 256], x: f32) -> u8 {
    let mut count = 0_u8;
    for bit in (0..8).rev() {
        let middle = bounds[usize::from(count | ((1 << bit) - 1))];
        count |= u8::from(middle < x) << bit;
    }
    count
}

fn dynamic(signed: bool) -> Vec<f32> {
    let mut numbers = vec![0.0, 1.0];
    let mut steps = if signed { 1 } else { 2 };
    for decade in DECADES {
        for pair in linspace(0.1, 1.0, steps + 1).windows(2) {
            let middle = decade * ((pair[0] + pair[1]) / 2.0);
            numbers.push(middle);
            if signed {
                numbers.push(-middle);
            }
        }
        steps *= 2;
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maps() -> [&'static Map8; 3] {
        [
            Map8::dynamic_signed(),
            Map8::dynamic_unsigned(),
            Map8::linear(),
        ]
    }

    #[test]
    fn maps_ascend_and_have_256_numbers() {
        for map in maps() {
            assert!(map.values().windows(2).all(|pair| pair[0] <= pair[1]));
            assert!(map.values().contains(&0.0));
            assert_eq!(map.values()[255], 1.0);
        }
        assert_eq!(dynamic(true).len(), 256);
        assert_eq!(dynamic(false).len(), 256);
        assert_eq!(Map8::linear().values()[0], -1.0);
    }

    #[test]
    fn codes_count_the_middles_below() {
        for map in maps() {
            let counted = |x: f32| map.bounds[..255].iter().filter(|&&b| b < x).count();
            for i in -1100..1100 {
                let x = i as f32 / 1000.0;
                assert_eq!(usize::from(map.encode(x)), counted(x), "{x}");
            }
            for &bound in &map.bounds[..255] {
                for x in [bound.next_down(), bound, bound.next_up()] {
                    assert_eq!(usize::from(map.encode(x)), counted(x), "{x}");
                }
            }
        }
    }

    #[test]
    fn no_two_middles_begin_with_the_same_bits() {
        for map in maps() {
            for pair in map.bounds[..255].windows(2) {
                assert_ne!(pair[0].to_bits() >> 16, pair[1].to_bits() >> 16, "{pair:?}");
            }
        }
    }

    #[test]
    fn errors_at_the_ends_count() {
        // The signed dynamic map has 1 but not -1.
        let map = Map8::dynamic_signed();
        assert!(map.max_error(-1.0) >= map.values()[0] + 1.0);
        assert!(Map8::linear().max_error(-1.0) < 0.5 / 126.0);
    }
}
