//! Signed bytes, evenly spaced: block-wise, and row-wise as in LLM.int8.

use crate::blocks::{Blocks, check_finite, finite_absmax};
use crate::error::{Error, Result};
use crate::float::WeightFloat;

/// The code of a block's largest magnitude.
const LARGEST_CODE: f32 = 127.0;

/// Added to a number below 2²², moves its rounded value into the low bits of the sum.
const ROUNDER: f32 = 12_582_912.0;

/// Codes in `-127..=127`, as bytes of two's complement, and one scale for every block.
///
/// # Errors
/// [`NonFinite`](Error::NonFinite) for a number that is not finite.
pub(crate) fn quantize(numbers: &[f32], block_size: usize) -> Result<(Vec<u8>, Vec<f32>)> {
    let mut codes = vec![0; numbers.len()];
    let mut absmax = vec![0.0; numbers.len().div_ceil(block_size)];
    blocks(block_size).encode(numbers, &mut codes, &mut absmax, |block, codes| {
        let absmax = finite_absmax(block)?;
        encode(block, absmax, codes, i8::cast_unsigned);
        Some(absmax)
    })?;
    Ok((codes, absmax))
}

/// The numbers `code·absmax / 127` in f32, rounded to `T`.
///
/// `codes` and `absmax` are exactly those of `out`.
pub(crate) fn dequantize<T: WeightFloat>(
    codes: &[u8],
    absmax: &[f32],
    block_size: usize,
    out: &mut [T],
) {
    blocks(block_size).decode(codes, absmax, out, |codes, absmax, out| {
        for (out, code) in out.iter_mut().zip(codes) {
            *out = T::round_from(decode(code.cast_signed(), absmax));
        }
    });
}

fn blocks(block_size: usize) -> Blocks {
    Blocks {
        size: block_size,
        code_bytes: block_size,
    }
}

/// Writes the code of each number of a block, `round(x·(1 / absmax·127))`, ties to even.
#[inline]
fn encode<T>(block: &[f32], absmax: f32, codes: &mut [T], store: impl Fn(i8) -> T) {
    // Two roundings, as torch divides a number by a tensor.
    let scale = absmax.recip() * LARGEST_CODE;
    let numbers = codes.iter_mut().zip(block);
    if scale.is_finite() {
        numbers.for_each(|(code, x)| *code = store(round(x * scale)));
    } else {
        // Zeros, or numbers so small that the scale overflows.
        let divisor = if absmax == 0.0 { 1.0 } else { absmax };
        numbers.for_each(|(code, x)| *code = store(round(x / divisor * LARGEST_CODE)));
    }
}

/// The nearest integer, ties to even, of a number in `-128..128`.
#[inline]
fn round(x: f32) -> i8 {
    i8::from_le_bytes([(x + ROUNDER).to_bits().to_le_bytes()[0]])
}

#[inline]
fn decode(code: i8, absmax: f32) -> f32 {
    f32::from(code) * absmax / LARGEST_CODE
}

/// A matrix as signed bytes with one scale for every row, and the columns left out of it.
///
/// # Source
/// - Dettmers et al. 2022, LLM.int8(), arXiv:2208.07339, §3
/// - reference: bitsandbytes `functional.py::int8_vectorwise_quant`; golden
///   `fixtures/quant/int8_vectorwise.safetensors`
#[derive(Debug, Clone, PartialEq)]
pub struct Int8Rows {
    /// Codes in `-127..=127`, row by row; zero in outlier columns.
    pub codes: Vec<i8>,
    /// The largest magnitude of every row, outliers left out.
    pub row_absmax: Vec<f32>,
    /// The columns with an outlier, ascending.
    pub outlier_cols: Vec<usize>,
}

impl Int8Rows {
    /// Quantizes a row-major matrix with `cols` columns.
    ///
    /// Numbers of magnitude `threshold` or more are outliers: they don't count for the scale of
    /// their row, and their whole column gets zeros, to be multiplied in the original precision.
    ///
    /// # Errors
    /// - [`Error::Length`] when `numbers` are not whole rows of at least one column
    /// - [`Error::NonFinite`] for a number that is not finite
    ///
    /// # Examples
    /// ```
    /// use flametune_quant::Int8Rows;
    ///
    /// let rows = Int8Rows::quantize(&[1.0, -2.0, 100.0, 0.5, 0.25, 0.0], 3, Some(6.0))?;
    /// assert_eq!(rows.codes, [64, -127, 0, 127, 64, 0]);
    /// assert_eq!(rows.row_absmax, [2.0, 0.5]);
    /// assert_eq!(rows.outlier_cols, [2]);
    /// # Ok::<(), flametune_quant::Error>(())
    /// ```
    pub fn quantize(numbers: &[f32], cols: usize, threshold: Option<f32>) -> Result<Self> {
        if cols == 0 || !numbers.len().is_multiple_of(cols) {
            return Err(Error::Length {
                what: "matrix",
                expected: numbers.len() / cols.max(1) * cols,
                got: numbers.len(),
            });
        }
        check_finite("matrix", numbers)?;
        let mut has_outlier = vec![false; cols];
        let mut inliers = numbers.to_vec();
        for (index, x) in inliers.iter_mut().enumerate() {
            if threshold.is_some_and(|limit| x.abs() >= limit) {
                has_outlier[index % cols] = true;
                *x = 0.0;
            }
        }
        let mut codes = vec![0; numbers.len()];
        let mut row_absmax = Vec::with_capacity(numbers.len() / cols);
        for (row, codes) in inliers.chunks(cols).zip(codes.chunks_mut(cols)) {
            let absmax = row.iter().fold(0.0, |max: f32, x| max.max(x.abs()));
            encode(row, absmax, codes, |code| code);
            row_absmax.push(absmax);
        }
        let outlier_cols: Vec<usize> = (0..cols).filter(|&column| has_outlier[column]).collect();
        for codes in codes.chunks_mut(cols) {
            for &column in &outlier_cols {
                codes[column] = 0;
            }
        }
        Ok(Self {
            codes,
            row_absmax,
            outlier_cols,
        })
    }

    /// The numbers `code·absmax / 127`, row by row; zero in outlier columns.
    pub fn dequantize(&self) -> Vec<f32> {
        let cols = self.codes.len() / self.row_absmax.len().max(1);
        let rows = self.codes.chunks(cols.max(1)).zip(&self.row_absmax);
        rows.flat_map(|(codes, &absmax)| codes.iter().map(move |&code| decode(code, absmax)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(codes: &[u8]) -> Vec<i8> {
        codes.iter().map(|code| code.cast_signed()).collect()
    }

    #[test]
    fn ties_go_to_the_even_code() {
        let numbers = [127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, -127.0];
        let (codes, absmax) = quantize(&numbers, 32).unwrap();
        assert_eq!(absmax, [127.0]);
        assert_eq!(signed(&codes), [127, 0, 2, 2, 0, -2, -2, -127]);
    }

    #[test]
    fn zeros_and_the_tiniest_numbers_keep_their_place() {
        let tiny = f32::from_bits(1);
        let (codes, absmax) = quantize(&[0.0, -0.0, 0.0, tiny, -tiny, 0.0], 3).unwrap();
        assert_eq!(absmax, [0.0, tiny]);
        assert_eq!(signed(&codes), [0, 0, 0, 127, -127, 0]);
    }

    #[test]
    fn a_matrix_must_have_whole_rows() {
        assert!(matches!(
            Int8Rows::quantize(&[0.0; 5], 3, None),
            Err(Error::Length {
                expected: 3,
                got: 5,
                ..
            })
        ));
        assert!(Int8Rows::quantize(&[], 0, None).is_err());
        let error = Int8Rows::quantize(&[0.0, f32::INFINITY], 2, None).unwrap_err();
        assert_eq!(error.to_string(), "matrix[1] must be finite, got inf");
        let empty = Int8Rows::quantize(&[], 3, None).unwrap();
        assert!(empty.dequantize().is_empty());
    }
}
