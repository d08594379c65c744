use burn::backend::ops::FloatTensorOps;
use burn::tensor::{Bytes, DType, Shape};
use burn_flex::{Flex, FlexTensor, Layout};

use crate::cpu::{Rows, Stored, rounded_rows, tensor_bf16};

/// A `[batch, heads, seq, head_dim]` tensor whose vectors are dense: any slice of a cache or
/// transposed projection, used in place.
#[derive(Debug, Clone)]
pub(super) struct Heads {
    tensor: FlexTensor,
    pub(super) batch: usize,
    pub(super) heads: usize,
    pub(super) seq: usize,
    pub(super) head_dim: usize,
    strides: [usize; 3],
    offset: usize,
}

impl Heads {
    /// Views `tensor`, of rank 4; copies it if its vectors are not dense or a stride is negative.
    pub(super) fn new(tensor: FlexTensor) -> Self {
        let strides = tensor.layout().strides();
        let dense = strides[3] == 1 || tensor.layout().shape()[3] == 1;
        let tensor = if dense && strides.iter().all(|&stride| stride >= 0) {
            tensor
        } else {
            tensor.to_contiguous()
        };
        let (shape, strides) = (tensor.layout().shape(), tensor.layout().strides());
        let [batch, heads, seq, head_dim] = [shape[0], shape[1], shape[2], shape[3]];
        let strides = [0, 1, 2].map(|dim| strides[dim].unsigned_abs());
        let offset = tensor.layout().start_offset();
        Self {
            offset,
            tensor,
            batch,
            heads,
            seq,
            head_dim,
            strides,
        }
    }

    pub(super) fn dtype(&self) -> DType {
        self.tensor.dtype()
    }

    /// Rows of one vector each, `len` of them from `first` on, as the vectors of a single row.
    pub(super) fn sequence(&self, first: usize, len: usize) -> Self {
        assert!(self.seq == 1 && first + len <= self.batch);
        Self {
            tensor: self.tensor.clone(),
            batch: 1,
            seq: len,
            strides: [0, self.strides[1], self.strides[0]],
            offset: self.offset + first * self.strides[0],
            ..*self
        }
    }

    /// All vectors of one head of one batch row, of the dtype of the tensor.
    pub(super) fn head<E: Stored>(&self, batch: usize, head: usize) -> Head<'_, E> {
        if self.seq == 0 || self.head_dim == 0 {
            return Head {
                data: &[],
                stride: 0,
                head_dim: self.head_dim,
            };
        }
        let start = self.offset + batch * self.strides[0] + head * self.strides[1];
        let stride = self.strides[2];
        let len = (self.seq - 1) * stride + self.head_dim;
        Head {
            data: &E::storage(&self.tensor)[start..start + len],
            stride,
            head_dim: self.head_dim,
        }
    }
}

/// The vectors of one head, `stride` apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head<'a, E = f32> {
    pub(super) data: &'a [E],
    pub(super) stride: usize,
    pub(super) head_dim: usize,
}

impl<'a, E> Head<'a, E> {
    pub(super) fn vector(&self, index: usize) -> &'a [E] {
        &self.data[index * self.stride..][..self.head_dim]
    }
}

/// `[batch, heads, seq, head_dim]` rounded to bf16, heads inside positions.
pub(super) fn rounded_heads(x: FlexTensor) -> FlexTensor {
    let inside = Flex::float_swap_dims(x, 1, 2);
    let shape = inside.layout().shape().clone();
    let values = rounded_rows(&Rows::new(inside));
    Flex::float_swap_dims(tensor_bf16(values, shape), 1, 2)
}

/// A `[batch, heads, seq, head_dim]` tensor over `data` in the order `[batch, seq, heads,
/// head_dim]`, so that joining the heads afterwards moves nothing.
pub(super) fn heads_inside(
    data: Vec<f32>,
    [batch, heads, seq, head_dim]: [usize; 4],
) -> FlexTensor {
    let row = heads * head_dim;
    let strides = [seq * row, head_dim, row, 1]
        .map(usize::cast_signed)
        .to_vec();
    let layout = Layout::new(Shape::from([batch, heads, seq, head_dim]), strides, 0);
    FlexTensor::new(Bytes::from_elems(data), layout, DType::F32)
}
