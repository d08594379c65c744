//! Block-wise eight bits through a map: scales of scales, and optimizer states.

use crate::blocks::{Blocks, check_finite, finite_absmax, reciprocal};
use crate::error::{Error, Result};
use crate::map8::Map8;

/// Numbers as 8-bit codes of a [`Map8`], with one scale for every block.
///
/// # Source
/// - reference: bitsandbytes `functional.py::quantize_blockwise`; golden
///   `fixtures/quant/blockwise8.safetensors`
/// - differs: codes are always the nearest; bitsandbytes' CPU kernel goes through a table of
///   65,536 entries and misses some
///
/// # Examples
/// ```
/// use flametune_quant::{Blockwise8, Map8};
///
/// let map = Map8::dynamic_signed();
/// let packed = Blockwise8::quantize(&[0.5, -0.25, 0.0], 256, map)?;
/// let numbers = packed.dequantize(map);
/// assert_eq!((numbers[0], numbers[2]), (0.5, 0.0));
/// assert!((numbers[1] + 0.25).abs() < 0.5 * map.max_error(-1.0));
/// # Ok::<(), flametune_quant::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Blockwise8 {
    pub(crate) codes: Vec<u8>,
    pub(crate) absmax: Vec<f32>,
    pub(crate) block_size: usize,
}

impl Blockwise8 {
    /// Quantizes `numbers` in blocks of `block_size`.
    ///
    /// # Errors
    /// - [`Error::ZeroBlockSize`] when `block_size` is zero
    /// - [`Error::NonFinite`] for a number that is not finite
    pub fn quantize(numbers: &[f32], block_size: usize, map: &Map8) -> Result<Self> {
        if block_size == 0 {
            return Err(Error::ZeroBlockSize);
        }
        let mut codes = vec![0; numbers.len()];
        let mut absmax = vec![0.0; numbers.len().div_ceil(block_size)];
        blocks(block_size).encode(numbers, &mut codes, &mut absmax, |block, codes| {
            let absmax = finite_absmax(block)?;
            if absmax > 0.0 {
                let reciprocal = reciprocal(absmax);
                for (code, x) in codes.iter_mut().zip(block) {
                    *code = map.encode(x * reciprocal);
                }
            }
            // Of a block of zeros all codes stay 0, as in bitsandbytes: any times zero is zero.
            Some(absmax)
        })?;
        Ok(Self {
            codes,
            absmax,
            block_size,
        })
    }

    /// Puts stored codes and scales together.
    ///
    /// # Errors
    /// - [`Error::ZeroBlockSize`] when `block_size` is zero
    /// - [`Error::Length`] when there is not one scale for every block
    /// - [`Error::NonFinite`] for a scale that is not finite
    pub fn from_parts(codes: Vec<u8>, absmax: Vec<f32>, block_size: usize) -> Result<Self> {
        if block_size == 0 {
            return Err(Error::ZeroBlockSize);
        }
        let n_blocks = codes.len().div_ceil(block_size);
        if absmax.len() != n_blocks {
            return Err(Error::Length {
                what: "absmax",
                expected: n_blocks,
                got: absmax.len(),
            });
        }
        check_finite("absmax", &absmax)?;
        Ok(Self {
            codes,
            absmax,
            block_size,
        })
    }

    /// The numbers in f32, by the map they were quantized with.
    pub fn dequantize(&self, map: &Map8) -> Vec<f32> {
        let mut out = vec![0.0; self.codes.len()];
        blocks(self.block_size).decode(
            &self.codes,
            &self.absmax,
            &mut out,
            |codes, absmax, out| {
                for (out, &code) in out.iter_mut().zip(codes) {
                    *out = map.decode(code) * absmax;
                }
            },
        );
        out
    }

    /// One code for every number.
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// The largest magnitude of every block.
    pub fn absmax(&self) -> &[f32] {
        &self.absmax
    }

    /// The numbers of a block.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// The bytes of codes and scales.
    pub fn bytes(&self) -> usize {
        self.codes.len() + size_of_val(self.absmax.as_slice())
    }
}

fn blocks(block_size: usize) -> Blocks {
    Blocks {
        size: block_size,
        code_bytes: block_size,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_block_has_its_scale() {
        let map = Map8::dynamic_signed();
        let packed = Blockwise8::quantize(&[1.0, -0.5, 8.0, 0.0, -3.0], 2, map).unwrap();
        assert_eq!(packed.absmax(), [1.0, 8.0, 3.0]);
        assert_eq!((packed.codes()[0], packed.codes()[2]), (255, 255));
        assert_eq!(packed.dequantize(map)[3], 0.0);
        assert_eq!(packed.bytes(), 5 + 12);
    }

    #[test]
    fn blocks_of_zeros_stay_zero() {
        let map = Map8::dynamic_signed();
        let packed = Blockwise8::quantize(&[0.0, -0.0, 0.0, 0.0, 0.0], 2, map).unwrap();
        assert_eq!(packed.codes(), [0; 5]);
        assert_eq!(packed.absmax(), [0.0; 3]);
        assert_eq!(packed.dequantize(map), [0.0; 5]);
    }

    #[test]
    fn parts_must_fit() {
        let message = |codes: usize, absmax: &[f32], block_size| {
            Blockwise8::from_parts(vec![0; codes], absmax.to_vec(), block_size)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            message(5, &[1.0; 2], 2),
            "absmax must have 3 elements, got 2"
        );
        assert_eq!(
            message(2, &[f32::NAN], 2),
            "absmax[0] must be finite, got NaN"
        );
        assert_eq!(message(2, &[], 0), "block_size must not be zero");
        assert!(Blockwise8::quantize(&[0.0], 0, Map8::linear()).is_err());
    }
}
