//! Sixteen numbers for four bits, and the way to the nearest of them.

/// The 16 numbers in `[-1, 1]` that the codes of a 4-bit kind stand for.
///
/// A number goes to the nearest entry; one in the middle of two goes to the lower, as in
/// bitsandbytes, which counts the middles that lie below it.
///
/// # Examples
/// ```
/// use flametune_quant::nf4_codebook;
///
/// let nf4 = nf4_codebook();
/// assert_eq!(nf4.decode(nf4.encode(0.09)), nf4.values()[8]);
/// assert_eq!((nf4.encode(-1.0), nf4.encode(0.0), nf4.encode(1.0)), (0, 7, 15));
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Codebook {
    /// The number of each code.
    values: [f32; 16],
    /// The middles of neighbours, ascending.
    bounds: [f32; 15],
    /// The codes by their place in ascending order, for two at a time: places in, codes out.
    pairs: [u8; 256],
}

impl Codebook {
    /// The codebook in which code `i` stands for `values[i]`.
    ///
    /// Of two codes that stand for the same number, the smaller counts as the lower.
    pub(crate) fn new(values: [f32; 16]) -> Self {
        let mut order: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
        order.sort_by(|&a, &b| values[usize::from(a)].total_cmp(&values[usize::from(b)]));
        let sorted = order.map(|code| values[usize::from(code)]);
        let mut bounds = [0.0; 15];
        for (bound, pair) in bounds.iter_mut().zip(sorted.windows(2)) {
            *bound = (pair[0] + pair[1]) / 2.0;
        }
        let pairs = std::array::from_fn(|places| order[places >> 4] << 4 | order[places & 15]);
        Self {
            values,
            bounds,
            pairs,
        }
    }

    /// The number of each code.
    pub fn values(&self) -> &[f32; 16] {
        &self.values
    }

    /// The middles of neighbouring numbers, ascending.
    pub fn bounds(&self) -> &[f32; 15] {
        &self.bounds
    }

    /// The code of the number nearest to `x`.
    pub fn encode(&self, x: f32) -> u8 {
        let place: u8 = self.bounds.iter().map(|&bound| u8::from(bound < x)).sum();
        self.pairs[usize::from(place)] & 15
    }

    /// The number that the lower four bits of `code` stand for.
    pub fn decode(&self, code: u8) -> f32 {
        self.values[usize::from(code & 15)]
    }

    /// The farthest that a number in `[-1, 1]` lies from the nearest entry.
    pub fn max_error(&self) -> f32 {
        let mut sorted = self.values;
        sorted.sort_by(f32::total_cmp);
        sorted
            .windows(2)
            .map(|pair| (pair[1] - pair[0]) / 2.0)
            .fold(0.0, f32::max)
            .max(1.0 - sorted[15])
            .max(sorted[0] + 1.0)
    }

    /// Encodes 16 numbers into 8 bytes, the first of each pair in the upper half of its byte.
    #[inline]
    pub(crate) fn encode_16(&self, numbers: &[f32; 16]) -> [u8; 8] {
        // One comparison per middle, no branch and no check: the compiler makes vectors of this.
        let mut places = [0_u32; 16];
        for (place, &x) in places.iter_mut().zip(numbers) {
            for bound in self.bounds {
                *place = place.wrapping_add(u32::from(bound < x));
            }
        }
        let mut packed = [0; 8];
        for (byte, pair) in packed.iter_mut().zip(places.chunks_exact(2)) {
            *byte = (pair[0] << 4 | pair[1]).to_le_bytes()[0];
        }
        packed.map(|places| self.pairs[usize::from(places)])
    }
}

#[cfg(test)]
mod tests {
    use crate::fp4::fp4_codebook;
    use crate::nf4::nf4_codebook;

    #[test]
    fn every_number_of_the_codebook_is_its_own_nearest() {
        for codebook in [nf4_codebook(), fp4_codebook()] {
            for &value in codebook.values() {
                assert_eq!(codebook.decode(codebook.encode(value)), value);
            }
        }
    }

    #[test]
    fn middles_go_down_and_what_lies_beyond_goes_to_the_ends() {
        for codebook in [nf4_codebook(), fp4_codebook()] {
            let mut sorted = *codebook.values();
            sorted.sort_by(f32::total_cmp);
            for (&bound, pair) in codebook.bounds().iter().zip(sorted.windows(2)) {
                assert_eq!(codebook.decode(codebook.encode(bound)), pair[0]);
                let above = codebook.decode(codebook.encode(bound.next_up()));
                assert_eq!(above, pair[1]);
            }
            assert_eq!(codebook.decode(codebook.encode(-2.0)), -1.0);
            assert_eq!(codebook.decode(codebook.encode(2.0)), 1.0);
        }
    }

    #[test]
    fn sixteen_at_once_equal_one_by_one() {
        let numbers: [f32; 16] = std::array::from_fn(|i| (i as f32 * 7.3).sin());
        for codebook in [nf4_codebook(), fp4_codebook()] {
            let packed = codebook.encode_16(&numbers);
            for (byte, pair) in packed.iter().zip(numbers.chunks(2)) {
                let expected = codebook.encode(pair[0]) << 4 | codebook.encode(pair[1]);
                assert_eq!(*byte, expected);
            }
        }
    }

    #[test]
    fn the_error_is_half_the_widest_gap() {
        let widest = (1.0 + nf4_codebook().values()[1]) / 2.0;
        assert_eq!(nf4_codebook().max_error(), widest);
        assert_eq!(fp4_codebook().max_error(), (1.0 - 8.0_f32 / 12.0) / 2.0);
    }
}
