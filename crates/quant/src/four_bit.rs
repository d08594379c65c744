//! Block-wise four bits: two codes a byte, one scale a block.
//!
//! Blocks run over the flattened tensor, across the ends of rows.
//! The first number of a pair has the upper half of its byte; the lower half of an odd last byte
//! holds the code of zero.

use crate::blocks::{Blocks, finite_absmax, partial_absmax, reciprocal};
use crate::codebook::Codebook;
use crate::error::Result;
use crate::float::WeightFloat;

/// Packed codes and one scale for every `block_size` numbers, a multiple of 16.
///
/// Rounds as bitsandbytes does: numbers of full blocks are multiplied by the reciprocal of the
/// block's largest magnitude, those of a last partial block are divided by it.
///
/// # Errors
/// [`NonFinite`](crate::Error::NonFinite) for a number that is not finite.
///
/// # Source
/// - reference: bitsandbytes `backends/default/ops.py::quantize_4bit`
pub(crate) fn quantize(
    numbers: &[f32],
    block_size: usize,
    codebook: &Codebook,
) -> Result<(Vec<u8>, Vec<f32>)> {
    let mut codes = vec![0; numbers.len().div_ceil(2)];
    let mut absmax = vec![0.0; numbers.len().div_ceil(block_size)];
    blocks(block_size).encode(numbers, &mut codes, &mut absmax, |block, codes| {
        let absmax = finite_absmax(block)?;
        if block.len() == block_size {
            encode_full(codebook, block, reciprocal(absmax), codes);
            Some(absmax)
        } else {
            let absmax = partial_absmax(absmax);
            encode_partial(codebook, block, absmax, codes);
            Some(absmax)
        }
    })?;
    Ok((codes, absmax))
}

/// The numbers of `codes`: entry of the codebook times scale in f32, rounded to `T`.
///
/// `codes` and `absmax` are exactly those of `out`.
pub(crate) fn dequantize<T: WeightFloat>(
    codes: &[u8],
    absmax: &[f32],
    block_size: usize,
    codebook: &Codebook,
    out: &mut [T],
) {
    blocks(block_size).decode(codes, absmax, out, |codes, absmax, out| {
        // A block has no more than 16 different numbers.
        let numbers = codebook.values().map(|x| T::round_from(x * absmax));
        let (pairs, last) = out.as_chunks_mut::<2>();
        for (pair, &code) in pairs.iter_mut().zip(codes) {
            pair[0] = numbers[usize::from(code >> 4)];
            pair[1] = numbers[usize::from(code & 15)];
        }
        if let ([last], Some(&code)) = (last, codes.last()) {
            *last = numbers[usize::from(code >> 4)];
        }
    });
}

fn blocks(block_size: usize) -> Blocks {
    Blocks {
        size: block_size,
        code_bytes: block_size / 2,
    }
}

/// Block sizes are multiples of 16, so nothing is left over.
fn encode_full(codebook: &Codebook, block: &[f32], reciprocal: f32, codes: &mut [u8]) {
    let (block, _) = block.as_chunks::<16>();
    let (codes, _) = codes.as_chunks_mut::<8>();
    for (codes, numbers) in codes.iter_mut().zip(block) {
        *codes = codebook.encode_16(&numbers.map(|x| x * reciprocal));
    }
}

fn encode_partial(codebook: &Codebook, block: &[f32], absmax: f32, codes: &mut [u8]) {
    for (code, pair) in codes.iter_mut().zip(block.chunks(2)) {
        let second = pair.get(1).map_or(0.0, |x| x / absmax);
        *code = codebook.encode(pair[0] / absmax) << 4 | codebook.encode(second);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fp4::fp4_codebook;
    use crate::nf4::nf4_codebook;

    #[test]
    fn the_first_of_a_pair_has_the_upper_half_and_padding_is_zero() {
        let (codes, absmax) = quantize(&[-2.0, 2.0, 1.0], 64, nf4_codebook()).unwrap();
        // 1/2 lies between 0.44 and 0.56, nearer to 0.44.
        assert_eq!(codes, [0x0f, 0xc7]);
        assert_eq!(absmax, [2.0]);
        let mut out = [0.0_f32; 3];
        dequantize(&codes, &absmax, 64, nf4_codebook(), &mut out);
        assert_eq!(out, [-2.0, 2.0, 2.0 * nf4_codebook().values()[12]]);
    }

    #[test]
    fn blocks_of_zeros_stay_zero() {
        for (codebook, zeros) in [(nf4_codebook(), 0x77), (fp4_codebook(), 0)] {
            let (codes, absmax) = quantize(&[0.0; 70], 32, codebook).unwrap();
            assert!(codes.iter().all(|&code| code == zeros));
            assert_eq!(absmax, [0.0, 0.0, 1e-38]);
            let mut out = [1.0_f32; 70];
            dequantize(&codes, &absmax, 32, codebook, &mut out);
            assert_eq!(out, [0.0; 70]);
        }
    }

    #[test]
    fn the_smallest_and_the_largest_numbers_survive() {
        for scale in [f32::MAX, 1e-37] {
            let numbers: [f32; 32] = std::array::from_fn(|i| if i == 3 { -scale } else { 0.0 });
            let (codes, absmax) = quantize(&numbers, 32, nf4_codebook()).unwrap();
            assert_eq!(absmax, [scale]);
            let mut out = [0.0_f32; 32];
            dequantize(&codes, &absmax, 32, nf4_codebook(), &mut out);
            assert_eq!(out, numbers);
        }
    }
}
