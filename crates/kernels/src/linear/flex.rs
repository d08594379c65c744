//! Linear maps on the CPU: a streaming product for few rows, `gemm` for many, and products of
//! bf16 operands where they are asked for or lie in memory.

use burn::tensor::{DType, Shape};
use burn_flex::FlexTensor;
use half::{bf16, f16};

use super::gemv::{MAX_ROWS, gemv};
use super::matrix::{Matrix, forward_strides, product};
use super::mixed;
use super::product16::{self, Orientation};
use crate::cpu::{Rows, Stored, tensor};
use crate::precision::Precision;

/// `y = x·Wᵀ + b`, of the dtype of x; x and b are f32 or bf16, W is f32, bf16 or f16.
pub(crate) fn forward(
    x: FlexTensor,
    weight: FlexTensor,
    bias: Option<FlexTensor>,
    precision: Precision,
) -> FlexTensor {
    if in_bf16(&x, precision) {
        return product_in_bf16(x, weight, Orientation::Rows, bias);
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

/// The product of bf16 operands; a weight that is a transposed view is used as it lies.
fn product_in_bf16(
    x: FlexTensor,
    weight: FlexTensor,
    orientation: Orientation,
    bias: Option<FlexTensor>,
) -> FlexTensor {
    let strides = weight.layout().strides();
    let (weight, orientation) = if strides[0] == 1 && strides[1] > 1 {
        (weight.transpose(0, 1), orientation.flipped())
    } else {
        (weight, orientation)
    };
    product16::product(x, &Rows::new(weight), orientation, bias)
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
    if in_bf16(&dy, precision) {
        return product_in_bf16(dy, weight, Orientation::Columns, None);
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
    if in_bf16(&dy, precision) {
        return product16::weight_gradient(dy, x);
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
