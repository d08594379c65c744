use burn::tensor::DType;
use burn_flex::FlexTensor;
use half::bf16;

use crate::cpu::Rows;

/// The numbers of a left operand, as they are in memory.
#[derive(Debug, Clone, Copy)]
pub(super) enum Values<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

impl Values<'_> {
    #[cfg(target_arch = "x86_64")]
    pub(super) fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }
}

/// The left operand `[rows, depth]` of a product, read once and rounded to bf16 on the way.
///
/// Entry `(i, k)` is value `i·stride + k`, or `k·stride + i` if transposed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Left<'a> {
    pub(super) values: Values<'a>,
    pub(super) rows: usize,
    pub(super) depth: usize,
    pub(super) stride: usize,
    pub(super) transposed: bool,
    /// What the values belong to, if all of it is the operand.
    pub(super) tensor: Option<&'a FlexTensor>,
}

impl<'a> Left<'a> {
    /// Views rows of f32 or bf16.
    pub(super) fn of(view: &'a Rows) -> Self {
        let values = match view.dtype() {
            DType::BF16 => Values::Bf16(view.data()),
            _ => Values::F32(view.data()),
        };
        Self {
            values,
            rows: view.rows(),
            depth: view.width(),
            stride: view.stride(),
            transposed: false,
            tensor: Some(view.tensor()),
        }
    }

    pub(super) fn transposed(self) -> Self {
        Self {
            rows: self.depth,
            depth: self.rows,
            transposed: !self.transposed,
            tensor: None,
            ..self
        }
    }

    /// The values from entry `(row, depth)` on; none where there is no such entry.
    pub(super) fn from(&self, row: usize, depth: usize) -> Values<'a> {
        let at = if self.transposed {
            depth * self.stride + row
        } else {
            row * self.stride + depth
        };
        match self.values {
            Values::F32(values) => Values::F32(values.get(at..).unwrap_or_default()),
            Values::Bf16(values) => Values::Bf16(values.get(at..).unwrap_or_default()),
        }
    }
}
