//! The scales of a quantized weight, plain or quantized in turn.

use std::borrow::Cow;

use crate::double_quant::NestedScales;

/// One scale for every block of a weight.
#[derive(Debug, Clone, PartialEq)]
pub enum Scales {
    /// The largest magnitude of each block.
    Absmax(Vec<f32>),
    /// The same in eight bits.
    Nested(NestedScales),
}

impl Scales {
    /// The number of scales.
    pub fn len(&self) -> usize {
        match self {
            Self::Absmax(absmax) => absmax.len(),
            Self::Nested(nested) => nested.codes().codes().len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The scales in f32, reconstructed where they are quantized.
    pub fn absmax(&self) -> Cow<'_, [f32]> {
        match self {
            Self::Absmax(absmax) => Cow::Borrowed(absmax),
            Self::Nested(nested) => Cow::Owned(nested.dequantize()),
        }
    }

    /// The bytes they take.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Absmax(absmax) => size_of_val(absmax.as_slice()),
            Self::Nested(nested) => nested.bytes(),
        }
    }
}
