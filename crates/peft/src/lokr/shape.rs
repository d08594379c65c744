//! How a matrix is cut into the two factors of a Kronecker product.

/// Two numbers with the product `dimension`, the first as near to `factor` as possible, or both as
/// near to each other as possible when there is no factor.
///
/// # Source
/// - reference: peft `tuners/lokr/layer.py::factorization`
pub(super) fn factorization(dimension: usize, factor: Option<usize>) -> (usize, usize) {
    if let Some(factor) = factor.filter(|&factor| dimension.is_multiple_of(factor)) {
        return (factor, dimension / factor);
    }
    let factor = factor.unwrap_or(dimension);
    let (mut m, mut n) = (1, dimension);
    let length = m + n;
    while m < n {
        let mut next = m + 1;
        while !dimension.is_multiple_of(next) {
            next += 1;
        }
        let other = dimension / next;
        if next + other > length || next > factor {
            break;
        }
        (m, n) = (next, other);
    }
    (m.min(n), m.max(n))
}

/// The shapes of the factors of a `[d_out, d_in]` matrix, and which of them are of low rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KroneckerShape {
    /// `[out_l, in_m]`.
    pub(super) first: [usize; 2],
    /// `[out_k, in_n]`.
    pub(super) second: [usize; 2],
    pub(super) first_is_low_rank: bool,
    pub(super) second_is_low_rank: bool,
}

impl KroneckerShape {
    pub(super) fn new(
        [d_out, d_in]: [usize; 2],
        factor: Option<usize>,
        r: usize,
        decompose_both: bool,
    ) -> Self {
        let (in_m, in_n) = factorization(d_in, factor);
        let (out_l, out_k) = factorization(d_out, factor);
        Self {
            first: [out_l, in_m],
            second: [out_k, in_n],
            first_is_low_rank: decompose_both && 2 * r < out_l.max(in_m),
            second_is_low_rank: 2 * r < out_k.max(in_n),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_are_those_of_peft() {
        for (dimension, factor, expected) in [
            (256, None, (16, 16)),
            (128, None, (8, 16)),
            (127, None, (1, 127)),
            (128, Some(4), (4, 32)),
            (96, None, (8, 12)),
            (96, Some(5), (4, 24)),
            (1, None, (1, 1)),
            (12, Some(12), (12, 1)),
        ] {
            assert_eq!(factorization(dimension, factor), expected, "{dimension}");
        }
    }
}
