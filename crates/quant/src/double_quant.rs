//! Double quantization: the scales of a weight, quantized to eight bits in turn.

use crate::blocks::check_finite;
use crate::blockwise8::Blockwise8;
use crate::error::Result;
use crate::map8::Map8;
use crate::torch_mean::torch_mean;

/// The scales that share a scale of the second level.
pub const NESTED_BLOCK_SIZE: usize = 256;

/// Scales as 8-bit codes of the signed dynamic map around their mean.
///
/// At blocks of 64, scales take 8/64 + 32/(64·256) = 0.127 bits per parameter instead of 0.5.
///
/// # Source
/// - Dettmers et al. 2023, QLoRA, arXiv:2305.14314, §3, Double Quantization
/// - reference: bitsandbytes `functional.py::quantize_4bit` with `compress_statistics`
/// - differs: from 32,768 scales on, the mean may be another in the last bits, as torch's then
///   depends on the number of threads
#[derive(Debug, Clone, PartialEq)]
pub struct NestedScales {
    pub(crate) codes: Blockwise8,
    pub(crate) offset: f32,
}

impl NestedScales {
    /// Quantizes scales.
    ///
    /// # Errors
    /// [`Error::NonFinite`](crate::Error::NonFinite) for a scale that is not finite.
    pub fn quantize(absmax: &[f32]) -> Result<Self> {
        check_finite("absmax", absmax)?;
        let offset = if absmax.is_empty() {
            0.0
        } else {
            torch_mean(absmax)
        };
        let centred: Vec<f32> = absmax.iter().map(|x| x - offset).collect();
        let codes = Blockwise8::quantize(&centred, NESTED_BLOCK_SIZE, Map8::dynamic_signed())?;
        Ok(Self { codes, offset })
    }

    /// Puts stored parts together.
    ///
    /// # Errors
    /// [`Error::NonFinite`](crate::Error::NonFinite) when `offset` is not finite.
    pub fn from_parts(codes: Blockwise8, offset: f32) -> Result<Self> {
        check_finite("offset", &[offset])?;
        Ok(Self { codes, offset })
    }

    /// The scales, as they enter the dequantization of the weight.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut absmax = self.codes.dequantize(Map8::dynamic_signed());
        for x in &mut absmax {
            *x += self.offset;
        }
        absmax
    }

    /// Codes and scales of the second level.
    pub fn codes(&self) -> &Blockwise8 {
        &self.codes
    }

    /// The mean of the scales, which codes count from.
    pub fn offset(&self) -> f32 {
        self.offset
    }

    /// The bytes of codes, second-level scales and offset.
    pub fn bytes(&self) -> usize {
        self.codes.bytes() + size_of_val(&self.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_scales_are_exact() {
        let scales = NestedScales::quantize(&[0.25; 300]).unwrap();
        assert_eq!(scales.offset(), 0.25);
        assert_eq!(scales.dequantize(), [0.25; 300]);
        assert_eq!(scales.bytes(), 300 + 2 * 4 + 4);
    }

    #[test]
    fn scales_that_are_not_finite_are_refused() {
        let error = NestedScales::quantize(&[1.0, f32::NAN]).unwrap_err();
        assert_eq!(error.to_string(), "absmax[1] must be finite, got NaN");
        let codes = NestedScales::quantize(&[1.0]).unwrap().codes;
        let error = NestedScales::from_parts(codes, f32::NEG_INFINITY).unwrap_err();
        assert_eq!(error.to_string(), "offset[0] must be finite, got -inf");
    }
}
