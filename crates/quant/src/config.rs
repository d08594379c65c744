//! What to quantize to: kinds, block sizes, logical types.

use std::fmt;

use burn::tensor::DType;

use crate::codebook::Codebook;
use crate::double_quant::NESTED_BLOCK_SIZE;
use crate::error::{Error, Result};
use crate::fp4::fp4_codebook;
use crate::nf4::nf4_codebook;

/// The block sizes that block-wise kinds offer, the ones of bitsandbytes.
pub const BLOCK_SIZES: [usize; 8] = [32, 64, 128, 256, 512, 1024, 2048, 4096];

/// How the numbers of a weight are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum QuantKind {
    /// Four bits that select one of 16 quantiles of the normal distribution.
    Nf4,
    /// Four bits: a sign, two of exponent and one of mantissa.
    Fp4,
    /// Signed bytes, evenly spaced, with one scale for every block.
    Int8,
    /// Signed bytes, evenly spaced, with one scale for every row.
    Int8Vectorwise,
}

impl QuantKind {
    /// The name, as recipes and bitsandbytes spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nf4 => "nf4",
            Self::Fp4 => "fp4",
            Self::Int8 => "int8",
            Self::Int8Vectorwise => "int8_vectorwise",
        }
    }

    /// The 16 numbers of a 4-bit kind.
    pub fn codebook(self) -> Option<&'static Codebook> {
        match self {
            Self::Nf4 => Some(nf4_codebook()),
            Self::Fp4 => Some(fp4_codebook()),
            Self::Int8 | Self::Int8Vectorwise => None,
        }
    }

    /// The bytes that the codes of `elements` numbers take.
    pub(crate) fn code_bytes(self, elements: usize) -> usize {
        match self {
            Self::Nf4 | Self::Fp4 => elements.div_ceil(2),
            Self::Int8 | Self::Int8Vectorwise => elements,
        }
    }
}

impl fmt::Display for QuantKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The type that a weight had before, and that it is computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WeightDtype {
    /// 32-bit floats.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of 32-bit floats.
    Bf16,
}

impl WeightDtype {
    /// The name that torch gives the type, without `torch.`.
    pub fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
        }
    }

    /// The type as tensors have it.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }

    /// The type that torch calls `name`, if it is one that weights have.
    pub fn from_torch_name(name: &str) -> Option<Self> {
        [Self::F32, Self::F16, Self::Bf16]
            .into_iter()
            .find(|dtype| dtype.torch_name() == name)
    }
}

/// What [`quantize`](crate::quantize) makes of a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuantConfig {
    /// How the numbers are stored.
    pub kind: QuantKind,
    /// The numbers that share a scale, one of [`BLOCK_SIZES`].
    ///
    /// [`QuantKind::Int8Vectorwise`] takes no notice of it: its blocks are rows.
    pub block_size: usize,
    /// Whether the scales are quantized to 8 bits in turn.
    pub double_quant: bool,
    /// The type the numbers had, kept for whoever dequantizes or saves them.
    pub dtype: WeightDtype,
}

impl Default for QuantConfig {
    /// The setting of QLoRA: NF4 in blocks of 64 with double quantization, computed in bf16.
    fn default() -> Self {
        Self {
            kind: QuantKind::Nf4,
            block_size: 64,
            double_quant: true,
            dtype: WeightDtype::Bf16,
        }
    }
}

impl QuantConfig {
    /// Checks that the parts go together.
    ///
    /// # Errors
    /// - [`Error::BlockSize`] for a block size that is not one of [`BLOCK_SIZES`]
    /// - [`Error::DoubleQuantOfRows`] for double quantization of row-wise scales
    pub fn validate(&self) -> Result<()> {
        if self.kind == QuantKind::Int8Vectorwise {
            if self.double_quant {
                return Err(Error::DoubleQuantOfRows);
            }
            return Ok(());
        }
        if BLOCK_SIZES.contains(&self.block_size) {
            Ok(())
        } else {
            Err(Error::BlockSize {
                got: self.block_size,
            })
        }
    }

    /// The bytes of codes and scales of a tensor of this shape, as
    /// [`QuantTensor::bytes`](crate::QuantTensor::bytes) counts them once it is quantized.
    pub fn bytes(&self, shape: &[usize]) -> usize {
        const F32: usize = size_of::<f32>();
        let numel = shape
            .iter()
            .fold(1_usize, |numel, &dim| numel.saturating_mul(dim));
        let n_blocks = numel.div_ceil(self.block_size_of(shape).max(1));
        let scales = if self.double_quant {
            n_blocks + (n_blocks.div_ceil(NESTED_BLOCK_SIZE) + 1) * F32
        } else {
            n_blocks.saturating_mul(F32)
        };
        self.kind.code_bytes(numel).saturating_add(scales)
    }

    /// The numbers that share a scale in a tensor of this shape.
    pub(crate) fn block_size_of(&self, shape: &[usize]) -> usize {
        match self.kind {
            // A single number is a row of one.
            QuantKind::Int8Vectorwise => shape.last().copied().unwrap_or(1),
            _ => self.block_size,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_block_sizes_are_refused() {
        for block_size in [0, 1, 16, 63, 96, 8192, usize::MAX] {
            let config = QuantConfig {
                block_size,
                ..QuantConfig::default()
            };
            let error = config.validate().unwrap_err();
            assert!(matches!(error, Error::BlockSize { got } if got == block_size));
        }
    }

    #[test]
    fn rows_have_no_block_size_and_no_double_quantization() {
        let rows = QuantConfig {
            kind: QuantKind::Int8Vectorwise,
            block_size: 0,
            double_quant: false,
            dtype: WeightDtype::F32,
        };
        rows.validate().unwrap();
        assert_eq!(rows.block_size_of(&[4, 7]), 7);
        assert_eq!(rows.block_size_of(&[]), 1);
        let nested = QuantConfig {
            double_quant: true,
            ..rows
        };
        assert!(matches!(nested.validate(), Err(Error::DoubleQuantOfRows)));
    }

    #[test]
    fn types_are_found_by_the_names_of_torch() {
        for dtype in [WeightDtype::F32, WeightDtype::F16, WeightDtype::Bf16] {
            assert_eq!(
                WeightDtype::from_torch_name(dtype.torch_name()),
                Some(dtype)
            );
        }
        assert_eq!(WeightDtype::from_torch_name("float64"), None);
    }
}
