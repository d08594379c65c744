//! Linear maps on the CPU: a streaming product for few rows, `gemm` for many, and products of
//! bf16 operands where they are asked for or lie in memory.

use burn::tensor::{DType, Shape};
use burn_flex::FlexTensor;
use half::{bf16, f16};

use super::gemv::{MAX_ROWS, gemv};
use super::matrix::{Matrix, forward_strides, product};
use super::mixed;
use super::product16::{self, Orientation};
use crate::alone::is_alone;
use crate::cpu::{Rows, Stored, tensor, tensor_bf16};
use crate::precision::Precision;

/// `y = x·Wᵀ + b`, of the dtype of x; x and b are f32 or bf16, W is f32, bf16 or f16.
pub(crate) fn forward(
    x: FlexTensor,
    weight: FlexTensor,
    bias: Option<FlexTensor>,
    precision: Precision,
) -> FlexTensor {
    if !is_alone() {
        return together(x, weight, bias, precision);
    }
    // A transposed f32 view goes through `gemm`, which keeps its order of sums for one row only.
    let transposed = weight.dtype() == DType::F32 && weight.layout().strides()[1] != 1;
    let rows = if transposed && !in_bf16(&x, precision) {
        1
    } else {
        MAX_ROWS
    };
    in_parts(x, rows, |x| {
        together(x, weight.clone(), bias.clone(), precision)
    })
}

/// Rows of `x` in groups of at most `rows`, and the outputs below each other again.
pub(crate) fn in_parts(
    x: FlexTensor,
    rows: usize,
    f: impl Fn(FlexTensor) -> FlexTensor,
) -> FlexTensor {
    let shape = x.layout().shape().clone();
    let width = shape.as_slice().last().copied().unwrap_or(1);
    let count = shape.num_elements().checked_div(width).unwrap_or(0);
    if count <= rows {
        return f(x);
    }
    let x = x.to_contiguous().reshape(Shape::from([count, width]));
    let parts = (0..count).step_by(rows).map(|first| {
        let end = (first + rows).min(count);
        f(x.narrow(0, first, end - first))
    });
    let parts: Vec<FlexTensor> = parts.collect();
    joined(&parts, &shape)
}

/// Rows of f32 or bf16 below each other, in the shape of what they were made from.
fn joined(parts: &[FlexTensor], shape: &Shape) -> FlexTensor {
    let width = parts.first().map_or(0, |part| part.layout().shape()[1]);
    let shape = with_width(shape, width);
    if parts.iter().any(|part| part.dtype() == DType::BF16) {
        return tensor_bf16(numbers::<bf16>(parts), shape);
    }
    tensor(numbers::<f32>(parts), shape)
}

fn numbers<E: Stored>(parts: &[FlexTensor]) -> Vec<E> {
    let mut all = Vec::new();
    for part in parts {
        let rows = Rows::new(part.clone());
        all.extend_from_slice(rows.data::<E>());
    }
    all
}

/// [`forward`] of all rows at once.
fn together(
    x: FlexTensor,
    weight: FlexTensor,
    bias: Option<FlexTensor>,
    precision: Precision,
) -> FlexTensor {
    let rows = with_width(x.layout().shape(), 1).num_elements();
    if in_bf16(&x, precision) || rows > MAX_ROWS && product16::in_full() {
        return product_in_blocks(x, weight, Orientation::Rows, bias, precision);
    }
    let shape = with_width(x.layout().shape(), weight.layout().shape()[0]);
    let x = Rows::new(x);
    let bias = bias.map(Rows::new);
    let bias = bias.as_ref().map(Rows::data::<f32>);
    let y = match weight.dtype() {
        DType::BF16 => converting::<bf16>(&x, weight, bias),
        DType::F16 => converting::<f16>(&x, weight, bias),
        _ if x.rows() <= MAX_ROWS && weight.layout().strides()[1] == 1 => {
            gemv::<f32>(&x, &Rows::new(weight), bias)
        }
        _ => {
            let weight = forward_strides(weight);
            product(
                Matrix::of_rows(&x),
                Matrix::of_tensor(&weight).transposed(),
                bias,
            )
        }
    };
    tensor(y, shape)
}

/// Whether the operands of a product with `x` are rounded to bf16, or `x` is bf16 already.
fn in_bf16(x: &FlexTensor, precision: Precision) -> bool {
    x.dtype() == DType::BF16 || precision == Precision::Bf16
}

/// The product of bf16 or f32 operands, block by block.
fn product_in_blocks(
    x: FlexTensor,
    weight: FlexTensor,
    orientation: Orientation,
    bias: Option<FlexTensor>,
    precision: Precision,
) -> FlexTensor {
    let (weight, orientation) = as_it_lies(weight, orientation);
    product16::product(x, &weight, orientation, bias, precision)
}

/// The rows of a weight, or its columns if it is a transposed view.
fn as_it_lies(weight: FlexTensor, orientation: Orientation) -> (Rows, Orientation) {
    if lies_in_rows(&weight) {
        (Rows::new(weight), orientation)
    } else {
        (Rows::new(weight.transpose(0, 1)), orientation.flipped())
    }
}

/// Whether a weight is no transposed view.
pub(crate) fn lies_in_rows(weight: &FlexTensor) -> bool {
    let strides = weight.layout().strides();
    strides[0] != 1 || strides[1] <= 1
}

fn converting<W: Stored>(x: &Rows, weight: FlexTensor, bias: Option<&[f32]>) -> Vec<f32> {
    let weight = Rows::new(weight);
    if x.rows() <= MAX_ROWS {
        gemv::<W>(x, &weight, bias)
    } else {
        mixed::forward(x, &weight, bias)
    }
}

/// `dx = dy·W`, of the dtype of dy.
pub(crate) fn x_gradient(dy: FlexTensor, weight: FlexTensor, precision: Precision) -> FlexTensor {
    if in_bf16(&dy, precision) || product16::in_full() {
        return product_in_blocks(dy, weight, Orientation::Columns, None, precision);
    }
    let shape = with_width(dy.layout().shape(), weight.layout().shape()[1]);
    let dy = Rows::new(dy);
    let dx = match weight.dtype() {
        DType::BF16 | DType::F16 => mixed::gradient(&dy, &Rows::new(weight)),
        _ => {
            let weight = forward_strides(weight);
            product(Matrix::of_rows(&dy), Matrix::of_tensor(&weight), None)
        }
    };
    tensor(dx, shape)
}

/// `dW = dyᵀ·x`, in f32.
pub(super) fn weight_gradient(dy: FlexTensor, x: FlexTensor, precision: Precision) -> FlexTensor {
    if in_bf16(&dy, precision) || product16::in_full() {
        return product16::weight_gradient(dy, x, precision);
    }
    let (dy, x) = (Rows::new(dy), Rows::new(x));
    let shape = Shape::from([dy.width(), x.width()]);
    tensor(
        product(Matrix::of_rows(&dy).transposed(), Matrix::of_rows(&x), None),
        shape,
    )
}

/// `db = Σ dy` over the rows, in f32.
pub(crate) fn bias_gradient(dy: FlexTensor) -> FlexTensor {
    let dy = Rows::new(dy);
    let sums = match dy.dtype() {
        DType::BF16 => column_sums::<bf16>(&dy),
        _ => column_sums::<f32>(&dy),
    };
    let shape = Shape::from([sums.len()]);
    tensor(sums, shape)
}

fn column_sums<E: Stored>(dy: &Rows) -> Vec<f32> {
    let values = dy.data::<E>();
    let mut sums = vec![0.0; dy.width()];
    for row in 0..dy.rows() {
        let row = &values[row * dy.stride()..][..dy.width()];
        sums.iter_mut()
            .zip(row)
            .for_each(|(sum, value)| *sum += value.to_f32());
    }
    sums
}

/// `shape` with its last dimension replaced.
pub(crate) fn with_width(shape: &Shape, width: usize) -> Shape {
    let mut dims = shape.as_slice().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = width;
    }
    Shape::from(dims)
}
