//! How a stored tensor differs from the checkpoint's, and reading it back.

use std::path::Path;

use burn::tensor::{DType, Element, TensorData};
use flametune_quant::gguf::{GgufTensor, dequantize_into};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use super::architecture::Architecture;
use super::config::Heads;
use crate::error::{Error, Result};

/// What llama.cpp's converter did to a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// Nothing.
    AsStored,
    /// Within each head of `head_dim` rows, it put row `i` of the second half behind row `i` of
    /// the first.
    Interleaved { head_dim: usize },
    /// It added one.
    PlusOne,
    /// It transposed the matrix.
    Transposed,
}

impl Layout {
    /// The layout of the tensor `name` of the checkpoint.
    pub(super) fn of(
        architecture: Architecture,
        name: &str,
        tensor: &GgufTensor,
        heads: Heads,
        file: &Path,
    ) -> Result<Self> {
        let (module, parameter) = name.rsplit_once('.').unwrap_or(("", name));
        match architecture {
            Architecture::Llama if module.ends_with(".q_proj") => {
                Self::interleaved(name, tensor, heads.query, heads.head_dim, file)
            }
            Architecture::Llama if module.ends_with(".k_proj") => {
                Self::interleaved(name, tensor, heads.key_value, heads.head_dim, file)
            }
            _ if architecture.is_gemma() && name.ends_with("norm.weight") => Ok(Self::PlusOne),
            Architecture::Gpt2 if is_conv1d(module) && parameter == "weight" => {
                Ok(Self::Transposed)
            }
            _ => Ok(Self::AsStored),
        }
    }

    fn interleaved(
        name: &str,
        tensor: &GgufTensor,
        n_heads: usize,
        head_dim: usize,
        file: &Path,
    ) -> Result<Self> {
        let rows = tensor.shape().first().copied();
        if rows.is_some() && rows == n_heads.checked_mul(head_dim) && head_dim.is_multiple_of(2) {
            return Ok(Self::Interleaved { head_dim });
        }
        let mut expected = tensor.shape().to_vec();
        if let Some(rows) = expected.first_mut() {
            *rows = n_heads.saturating_mul(head_dim);
        }
        Err(Error::ShapeMismatch {
            tensor: name.to_owned(),
            file: file.to_owned(),
            expected,
            got: tensor.shape().to_vec(),
        })
    }

    /// The checkpoint's shape of a tensor stored with `shape`.
    pub(super) fn shape(self, shape: &[usize]) -> Vec<usize> {
        match self {
            Self::Transposed => shape.iter().rev().copied().collect(),
            _ => shape.to_vec(),
        }
    }

    /// The stored row that holds row `row` of the checkpoint.
    pub(super) fn stored_row(self, row: usize) -> usize {
        match self {
            Self::Interleaved { head_dim } => {
                let (head, within) = (row / head_dim, row % head_dim);
                let (half, index) = (within / (head_dim / 2), within % (head_dim / 2));
                head * head_dim + index * 2 + half
            }
            _ => row,
        }
    }
}

fn is_conv1d(module: &str) -> bool {
    [".c_attn", ".c_proj", ".c_fc"]
        .iter()
        .any(|end| module.ends_with(end))
}

/// The values of a tensor with the checkpoint's layout and the type `dtype`; `None` for a type
/// that is none of `F32`, `F16` and `BF16`.
pub(super) fn read(
    tensor: &GgufTensor,
    bytes: &[u8],
    layout: &Layout,
    shape: &[usize],
    dtype: DType,
) -> Result<Option<TensorData>> {
    let stored = Stored {
        tensor,
        bytes,
        layout: *layout,
    };
    Ok(match dtype {
        DType::F32 => Some(TensorData::new(stored.read(0.0, copy)?, shape)),
        DType::F16 => Some(TensorData::new(stored.read(f16::ZERO, narrow)?, shape)),
        DType::BF16 => Some(TensorData::new(stored.read(bf16::ZERO, narrow)?, shape)),
        _ => None,
    })
}

fn copy(from: &[f32], to: &mut [f32]) {
    to.copy_from_slice(from);
}

fn narrow<T>(from: &[f32], to: &mut [T])
where
    [T]: HalfFloatSliceExt,
{
    to.convert_from_f32_slice(from);
}

struct Stored<'a> {
    tensor: &'a GgufTensor,
    bytes: &'a [u8],
    layout: Layout,
}

impl Stored<'_> {
    /// The values in the checkpoint's order, each passed through `convert`.
    fn read<T: Element>(&self, zero: T, convert: fn(&[f32], &mut [T])) -> Result<Vec<T>> {
        let rows = self.tensor.shape().first().copied().unwrap_or(1);
        let row = self.tensor.elements().checked_div(rows).unwrap_or(0);
        let whole_blocks = self.tensor.kind().bytes(row).filter(|&bytes| bytes > 0);
        match (self.layout, whole_blocks) {
            (Layout::Transposed, _) => {
                self.read_whole(convert, zero, |values| transposed(&values, rows, row))
            }
            // A vector, whose rows are parts of blocks.
            (Layout::Interleaved { .. }, None) => self.read_whole(convert, zero, |values| {
                (0..rows)
                    .map(|row| values[self.layout.stored_row(row)])
                    .collect()
            }),
            (_, None) => self.read_whole(convert, zero, |values| values),
            (_, Some(row_bytes)) => self.read_rows(convert, zero, row, row_bytes),
        }
    }

    /// Row by row, on all threads, so that no second copy of the tensor exists.
    fn read_rows<T: Element>(
        &self,
        convert: fn(&[f32], &mut [T]),
        zero: T,
        row: usize,
        row_bytes: usize,
    ) -> Result<Vec<T>> {
        /// Elements that one thread takes at least.
        const GRAIN: usize = 1 << 14;
        let mut values = vec![zero; self.tensor.elements()];
        values
            .par_chunks_mut(row)
            .with_min_len(GRAIN.div_ceil(row))
            .enumerate()
            .try_for_each_init(
                || vec![0.0; row],
                |scratch, (index, out)| {
                    let begin = self.layout.stored_row(index) * row_bytes;
                    let bytes = &self.bytes[begin..begin + row_bytes];
                    dequantize_into(self.tensor.kind(), bytes, scratch)?;
                    self.subtract_one(scratch);
                    convert(scratch, out);
                    Ok(())
                },
            )
            .map(|()| values)
    }

    /// All at once, for what is small or needs all of it.
    fn read_whole<T: Element>(
        &self,
        convert: fn(&[f32], &mut [T]),
        zero: T,
        rearrange: impl FnOnce(Vec<f32>) -> Vec<f32>,
    ) -> Result<Vec<T>> {
        let mut values = vec![0.0; self.tensor.elements()];
        dequantize_into(self.tensor.kind(), self.bytes, &mut values)?;
        self.subtract_one(&mut values);
        let values = rearrange(values);
        let mut out = vec![zero; values.len()];
        convert(&values, &mut out);
        Ok(out)
    }

    fn subtract_one(&self, values: &mut [f32]) {
        if self.layout == Layout::PlusOne {
            values.iter_mut().for_each(|value| *value -= 1.0);
        }
    }
}

fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut out = vec![0.0; values.len()];
    if rows > 0 {
        out.par_chunks_mut(rows)
            .take(columns)
            .enumerate()
            .for_each(|(column, out)| {
                for (row, out) in out.iter_mut().enumerate() {
                    *out = values[row * columns + column];
                }
            });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_come_back_from_pairs() {
        let layout = Layout::Interleaved { head_dim: 6 };
        let order: Vec<_> = (0..12).map(|row| layout.stored_row(row)).collect();
        assert_eq!(order, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
    }

    #[test]
    fn transposing_by_hand() {
        assert_eq!(
            transposed(&[1., 2., 3., 4., 5., 6.], 2, 3),
            [1., 4., 2., 5., 3., 6.]
        );
        assert!(transposed(&[], 0, 3).is_empty());
    }
}
