//! From stored parts to a quantized weight.

use safetensors::Dtype;

use super::error::BnbLayoutError;
use super::state::{NestedState, State};
use super::{
    ABSMAX, BnbPart, KINDS, NESTED_ABSMAX, NESTED_QUANT_MAP, QUANT_MAP, part_name, sibling_name,
    state_part,
};
use crate::blockwise8::Blockwise8;
use crate::config::{QuantConfig, QuantKind};
use crate::double_quant::NestedScales;
use crate::error::Result;
use crate::map8::Map8;
use crate::scales::Scales;
use crate::tensor::QuantTensor;

/// The names under which errors speak of the codes and of the quant state.
pub(super) const WEIGHT: &str = "weight";
const QUANT_STATE: &str = "quant_state";

/// Puts the weight named `weight` together from its parts.
///
/// `lookup` returns the stored tensor of a name, if there is one.
/// The codes may be stored as wider elements than bytes (bitsandbytes' `quant_storage`).
/// Tables may deviate from this crate's by a few units in the last place; this crate's are used.
///
/// # Errors
/// [`Error::BnbLayout`](crate::Error::BnbLayout) for everything that is missing, contradictory or
/// not supported; [`BnbLayoutError`] says what.
///
/// # Examples
/// ```
/// use std::collections::HashMap;
///
/// use flametune_quant::{QuantConfig, bnb_layout, quantize};
///
/// let packed = quantize(&[0.5; 96], &[8, 12], QuantConfig::default())?;
/// let stored: HashMap<String, bnb_layout::BnbPart> =
///     bnb_layout::write("q_proj.weight", &packed)?.into_iter().collect();
/// assert_eq!(stored["q_proj.weight"].shape, [48, 1]);
/// let read = bnb_layout::read("q_proj.weight", |name| stored.get(name).cloned())?;
/// assert_eq!(read, packed);
/// # Ok::<(), flametune_quant::Error>(())
/// ```
pub fn read<'a>(
    weight: &str,
    lookup: impl FnMut(&str) -> Option<BnbPart<'a>>,
) -> Result<QuantTensor> {
    let mut parts = Parts { weight, lookup };
    let read = if parts.has_rows() {
        parts.read_rows()
    } else {
        parts.read()
    };
    let (config, shape, codes, scales) = read.map_err(|error| error.of(weight))?;
    QuantTensor::from_parts(config, shape, codes, scales)
}

/// What is known of a stored weight without reading its codes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// How the numbers are stored.
    pub kind: QuantKind,
    /// The numbers that share a scale; of row-wise kinds the length of a row.
    pub block_size: usize,
    /// Whether the scales are quantized in turn.
    pub double_quant: bool,
    /// The shape of the weight, outermost dimension first.
    pub shape: Vec<usize>,
}

/// Describes the weight named `weight`; `lookup` as for [`read`].
///
/// # Errors
/// [`Error::BnbLayout`](crate::Error::BnbLayout) for a quant state that cannot be read.
pub fn describe<'a>(
    weight: &str,
    lookup: impl FnMut(&str) -> Option<BnbPart<'a>>,
) -> Result<Description> {
    let mut parts = Parts { weight, lookup };
    parts.describe().map_err(|error| error.of(weight))
}

/// The stored tensors of one weight.
pub(super) struct Parts<'n, L> {
    weight: &'n str,
    lookup: L,
}

impl<'a, L: FnMut(&str) -> Option<BnbPart<'a>>> Parts<'_, L> {
    fn read(&mut self) -> Result<(QuantConfig, Vec<usize>, Vec<u8>, Scales), BnbLayoutError> {
        let (kind, state) = self.state()?;
        let codes = self.codes(state.numel.div_ceil(2))?;
        if let Some(codebook) = kind.codebook() {
            self.check_table(QUANT_MAP, codebook.values())?;
        }
        let n_blocks = state.numel.div_ceil(state.block_size);
        let scales = match &state.nested {
            Some(nested) => Scales::Nested(self.nested_scales(n_blocks, nested)?),
            None => Scales::Absmax(self.plain_scales(n_blocks)?),
        };
        let config = QuantConfig {
            kind,
            block_size: state.block_size,
            double_quant: state.nested.is_some(),
            dtype: state.dtype,
        };
        Ok((config, state.shape, codes, scales))
    }

    fn describe(&mut self) -> Result<Description, BnbLayoutError> {
        if self.has_rows() {
            let (shape, _) = self.row_codes()?;
            return Ok(Description {
                kind: QuantKind::Int8Vectorwise,
                block_size: shape[1],
                double_quant: false,
                shape: shape.to_vec(),
            });
        }
        let (kind, state) = self.state()?;
        Ok(Description {
            kind,
            block_size: state.block_size,
            double_quant: state.nested.is_some(),
            shape: state.shape,
        })
    }

    /// The one quant state, whose name says the kind.
    fn state(&mut self) -> Result<(QuantKind, State), BnbLayoutError> {
        let names = KINDS.map(state_part);
        let found = names.each_ref().map(|name| self.find(name));
        let [first, second] = names;
        let (kind, part) = match found {
            [Some(_), Some(_)] => return Err(BnbLayoutError::SeveralStates { first, second }),
            [None, None] => return Err(BnbLayoutError::MissingState { first, second }),
            [Some(part), None] => (KINDS[0], part),
            [None, Some(part)] => (KINDS[1], part),
        };
        check_dtype(QUANT_STATE, &part, Dtype::U8, "U8")?;
        check_shape(QUANT_STATE, &part, &[part.bytes.len()])?;
        Ok((kind, State::parse(&part.bytes, kind)?))
    }

    /// The packed codes, stored as a column of elements of some width.
    fn codes(&mut self, expected: usize) -> Result<Vec<u8>, BnbLayoutError> {
        let part = self.find_weight().ok_or_else(|| missing(WEIGHT))?;
        let width = match part.dtype {
            Dtype::U8 => 1,
            Dtype::F16 | Dtype::BF16 => 2,
            Dtype::F32 => 4,
            got => {
                return Err(BnbLayoutError::Dtype {
                    part: WEIGHT,
                    expected: "U8, F16, BF16 or F32",
                    got,
                });
            }
        };
        if part.bytes.len() != expected {
            return Err(BnbLayoutError::Bytes {
                part: WEIGHT,
                expected,
                got: part.bytes.len(),
            });
        }
        check_shape(WEIGHT, &part, &[expected / width, 1])?;
        Ok(part.bytes.into_owned())
    }

    fn plain_scales(&mut self, n_blocks: usize) -> Result<Vec<f32>, BnbLayoutError> {
        for part in [NESTED_ABSMAX, NESTED_QUANT_MAP] {
            if self.find(part).is_some() {
                return Err(BnbLayoutError::UnexpectedPart { part });
            }
        }
        self.f32s(ABSMAX, n_blocks)
    }

    fn nested_scales(
        &mut self,
        n_blocks: usize,
        state: &NestedState,
    ) -> Result<NestedScales, BnbLayoutError> {
        let codes = self.bytes(ABSMAX, n_blocks, Dtype::U8, "U8")?;
        let absmax = self.f32s(NESTED_ABSMAX, n_blocks.div_ceil(state.block_size))?;
        self.check_table(NESTED_QUANT_MAP, Map8::dynamic_signed().values())?;
        Ok(NestedScales {
            codes: Blockwise8 {
                codes,
                absmax,
                block_size: state.block_size,
            },
            offset: state.offset,
        })
    }

    /// Compares a stored table with the one of this crate.
    fn check_table(&mut self, part: &'static str, table: &[f32]) -> Result<(), BnbLayoutError> {
        let stored = self.f32s(part, table.len())?;
        for (index, (&got, &expected)) in stored.iter().zip(table).enumerate() {
            if (got - expected).abs() > 1e-6 * expected.abs() + 1e-9 {
                return Err(BnbLayoutError::Table {
                    part,
                    index,
                    expected,
                    got,
                });
            }
        }
        Ok(())
    }

    /// The `len` finite numbers of a part.
    fn f32s(&mut self, part: &'static str, len: usize) -> Result<Vec<f32>, BnbLayoutError> {
        let found = self.find(part).ok_or_else(|| missing(part))?;
        f32s(part, &found, len)
    }

    /// The bytes of a part that has `len` elements of `dtype`.
    fn bytes(
        &mut self,
        part: &'static str,
        len: usize,
        dtype: Dtype,
        expected: &'static str,
    ) -> Result<Vec<u8>, BnbLayoutError> {
        let found = self.find(part).ok_or_else(|| missing(part))?;
        check_dtype(part, &found, dtype, expected)?;
        check_shape(part, &found, &[len])?;
        Ok(found.bytes.into_owned())
    }

    fn find(&mut self, part: &str) -> Option<BnbPart<'a>> {
        (self.lookup)(&part_name(self.weight, part))
    }

    pub(super) fn find_weight(&mut self) -> Option<BnbPart<'a>> {
        (self.lookup)(self.weight)
    }

    /// What stands beside the weight under the name of its layer.
    pub(super) fn find_sibling(&mut self, part: &str) -> Option<BnbPart<'a>> {
        (self.lookup)(&sibling_name(self.weight, part)?)
    }
}

/// The `len` finite numbers that `part` must hold.
pub(super) fn f32s(
    part: &'static str,
    found: &BnbPart<'_>,
    len: usize,
) -> Result<Vec<f32>, BnbLayoutError> {
    check_dtype(part, found, Dtype::F32, "F32")?;
    check_shape(part, found, &[len])?;
    let (numbers, _) = found.bytes.as_chunks::<4>();
    let numbers: Vec<f32> = numbers.iter().map(|&x| f32::from_le_bytes(x)).collect();
    match numbers.iter().position(|x| !x.is_finite()) {
        Some(index) => Err(BnbLayoutError::NonFinite {
            part,
            index,
            value: numbers[index],
        }),
        None => Ok(numbers),
    }
}

pub(super) fn check_dtype(
    part: &'static str,
    found: &BnbPart<'_>,
    dtype: Dtype,
    expected: &'static str,
) -> Result<(), BnbLayoutError> {
    if found.dtype == dtype {
        Ok(())
    } else {
        Err(BnbLayoutError::Dtype {
            part,
            expected,
            got: found.dtype,
        })
    }
}

/// Checks the shape, and that there are the bytes of it.
fn check_shape(
    part: &'static str,
    found: &BnbPart<'_>,
    expected: &[usize],
) -> Result<(), BnbLayoutError> {
    if found.shape != expected {
        return Err(BnbLayoutError::Shape {
            part,
            expected: expected.to_vec(),
            got: found.shape.clone(),
        });
    }
    let elements: usize = expected.iter().product();
    let bytes = elements.saturating_mul(found.dtype.bitsize() / 8);
    if found.bytes.len() != bytes {
        return Err(BnbLayoutError::Bytes {
            part,
            expected: bytes,
            got: found.bytes.len(),
        });
    }
    Ok(())
}

pub(super) fn missing(part: &'static str) -> BnbLayoutError {
    BnbLayoutError::MissingPart { part }
}
