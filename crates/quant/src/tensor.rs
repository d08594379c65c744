//! A quantized weight in host memory.

use crate::blocks::check_finite;
use crate::config::{QuantConfig, QuantKind, WeightDtype};
use crate::double_quant::NestedScales;
use crate::error::{Error, Result};
use crate::float::WeightFloat;
use crate::scales::Scales;
use crate::{four_bit, int8};

/// A weight as codes and scales.
///
/// Blocks run over the flattened, row-major tensor and across the ends of rows; the last may be
/// shorter.
/// Of 4-bit codes the first of each pair has the upper half of its byte.
///
/// # Units
/// [`bytes`](Self::bytes) and [`bits_per_param`](Self::bits_per_param) count codes and scales, not
/// the tables that all weights of a kind share.
///
/// # Examples
/// ```
/// use flametune_quant::{QuantConfig, quantize};
///
/// let weight: Vec<f32> = (0..4096).map(|i| (i as f32).sin()).collect();
/// let config = QuantConfig { double_quant: false, ..QuantConfig::default() };
/// let packed = quantize(&weight, &[64, 64], config)?;
/// assert_eq!(packed.bytes(), 4096 / 2 + 4096 / 64 * 4);
/// assert_eq!(packed.bits_per_param(), 4.5);
/// let numbers = packed.dequantize();
/// assert!(weight.iter().zip(numbers).all(|(w, q)| (w - q).abs() < 0.16));
/// # Ok::<(), flametune_quant::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct QuantTensor {
    kind: QuantKind,
    block_size: usize,
    dtype: WeightDtype,
    shape: Vec<usize>,
    codes: Vec<u8>,
    scales: Scales,
}

/// Quantizes a row-major tensor, on all threads when it is large.
///
/// # Errors
/// - what [`QuantConfig::validate`] refuses
/// - [`Error::EmptyShape`] and [`Error::ShapeOverflow`] for a shape of nothing or too much
/// - [`Error::Length`] when `numbers` are not those of `shape`
/// - [`Error::NonFinite`] for the first number that is infinite or not a number
pub fn quantize(numbers: &[f32], shape: &[usize], config: QuantConfig) -> Result<QuantTensor> {
    config.validate()?;
    check_length("weight", numel(shape)?, numbers.len())?;
    let block_size = config.block_size_of(shape);
    let (codes, absmax) = match config.kind.codebook() {
        Some(codebook) => four_bit::quantize(numbers, block_size, codebook)?,
        None => int8::quantize(numbers, block_size)?,
    };
    let scales = if config.double_quant {
        Scales::Nested(NestedScales::quantize(&absmax)?)
    } else {
        Scales::Absmax(absmax)
    };
    Ok(QuantTensor {
        kind: config.kind,
        block_size,
        dtype: config.dtype,
        shape: shape.to_vec(),
        codes,
        scales,
    })
}

impl QuantTensor {
    /// Puts stored parts together.
    ///
    /// Whether scales are quantized in turn is what `scales` say; `config.double_quant` must say
    /// the same.
    ///
    /// # Errors
    /// - what [`QuantConfig::validate`] refuses
    /// - [`Error::EmptyShape`] and [`Error::ShapeOverflow`] for a shape of nothing or too much
    /// - [`Error::Length`] when codes or scales are not those of `shape`
    /// - [`Error::ScalesKind`] when `scales` are not of the kind that `config` says
    /// - [`Error::NonFinite`] for a scale that is infinite or not a number
    pub fn from_parts(
        config: QuantConfig,
        shape: Vec<usize>,
        codes: Vec<u8>,
        scales: Scales,
    ) -> Result<Self> {
        config.validate()?;
        let numel = numel(&shape)?;
        let block_size = config.block_size_of(&shape);
        check_length("codes", config.kind.code_bytes(numel), codes.len())?;
        check_length("absmax", numel.div_ceil(block_size), scales.len())?;
        let nested = matches!(scales, Scales::Nested(_));
        if nested != config.double_quant {
            return Err(Error::ScalesKind {
                double_quant: config.double_quant,
            });
        }
        if let Scales::Absmax(absmax) = &scales {
            check_finite("absmax", absmax)?;
        }
        Ok(Self {
            kind: config.kind,
            block_size,
            dtype: config.dtype,
            shape,
            codes,
            scales,
        })
    }

    /// The numbers in f32: `codebook[code]·absmax`, or `code·absmax / 127` of int8 kinds.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.numel()];
        self.decode(&mut out);
        out
    }

    /// Writes the numbers, computed in f32 and rounded once, into `out`.
    ///
    /// # Errors
    /// [`Error::Length`] when `out` has not exactly [`numel`](Self::numel) elements.
    ///
    /// # Examples
    /// ```
    /// use flametune_quant::{QuantConfig, quantize};
    /// use half::bf16;
    ///
    /// let packed = quantize(&[0.5, -0.5], &[2], QuantConfig::default())?;
    /// let mut out = [bf16::ZERO; 2];
    /// packed.dequantize_into(&mut out)?;
    /// assert_eq!(out.map(bf16::to_f32), [0.5, -0.5]);
    /// # Ok::<(), flametune_quant::Error>(())
    /// ```
    pub fn dequantize_into<T: WeightFloat>(&self, out: &mut [T]) -> Result<()> {
        check_length("output", self.numel(), out.len())?;
        self.decode(out);
        Ok(())
    }

    fn decode<T: WeightFloat>(&self, out: &mut [T]) {
        let absmax = self.scales.absmax();
        match self.kind.codebook() {
            Some(codebook) => {
                four_bit::dequantize(&self.codes, &absmax, self.block_size, codebook, out);
            }
            None => int8::dequantize(&self.codes, &absmax, self.block_size, out),
        }
    }

    /// Kind, block size, double quantization and logical dtype.
    pub fn config(&self) -> QuantConfig {
        QuantConfig {
            kind: self.kind,
            block_size: self.block_size,
            double_quant: self.double_quant(),
            dtype: self.dtype,
        }
    }

    /// How the numbers are stored.
    pub fn kind(&self) -> QuantKind {
        self.kind
    }

    /// The numbers that share a scale; of row-wise kinds the length of a row.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Whether the scales are quantized in turn.
    pub fn double_quant(&self) -> bool {
        matches!(self.scales, Scales::Nested(_))
    }

    /// The type that the weight had.
    pub fn dtype(&self) -> WeightDtype {
        self.dtype
    }

    /// The shape of the weight, outermost dimension first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The numbers of the weight.
    pub fn numel(&self) -> usize {
        // Checked not to overflow when the tensor was made.
        self.shape.iter().product()
    }

    /// Two 4-bit codes or one 8-bit code a byte; int8 codes in two's complement.
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// One scale for every block.
    pub fn scales(&self) -> &Scales {
        &self.scales
    }

    /// The bytes of codes and scales.
    pub fn bytes(&self) -> usize {
        self.codes.len() + self.scales.bytes()
    }

    /// `8·bytes / numel`.
    pub fn bits_per_param(&self) -> f64 {
        8.0 * self.bytes() as f64 / self.numel() as f64
    }
}

/// The number of elements of a shape, at least one.
pub(crate) fn numel(shape: &[usize]) -> Result<usize> {
    let product = shape
        .iter()
        .try_fold(1_usize, |product, &dim| product.checked_mul(dim));
    match product {
        None => Err(Error::ShapeOverflow {
            shape: shape.to_vec(),
        }),
        Some(0) => Err(Error::EmptyShape {
            shape: shape.to_vec(),
        }),
        Some(numel) => Ok(numel),
    }
}

fn check_length(what: &'static str, expected: usize, got: usize) -> Result<()> {
    if expected == got {
        Ok(())
    } else {
        Err(Error::Length {
            what,
            expected,
            got,
        })
    }
}

#[cfg(test)]
mod tests;
