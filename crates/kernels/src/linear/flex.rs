//! Linear maps on the CPU: a streaming product for few rows, `gemm` for many.

use burn::tensor::{DType, Shape};
use burn_flex::FlexTensor;
use half::{bf16, f16};

use super::gemv::{MAX_ROWS, gemv};
use super::matrix::{Matrix, forward_strides, product};
use super::mixed;
use crate::cpu::{Rows, Stored, tensor};

/// `y = x·Wᵀ + b`; x and b are f32, W is f32, bf16 or f16.
pub(super) fn forward(x: FlexTensor, weight: FlexTensor, bias: Option<FlexTensor>) -> FlexTensor {
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

fn converting<W: Stored>(x: &Rows, weight: FlexTensor, bias: Option<&[f32]>) -> Vec<f32> {
    let weight = Rows::new(weight);
    if x.rows() <= MAX_ROWS {
        gemv::<W>(x, &weight, bias)
    } else {
        mixed::forward::<W>(x, &weight, bias)
    }
}

/// `dx = dy·W`.
pub(super) fn x_gradient(dy: FlexTensor, weight: FlexTensor) -> FlexTensor {
    let shape = with_width(dy.layout().shape(), weight.layout().shape()[1]);
    let dy = Rows::new(dy);
    let dx = match weight.dtype() {
        DType::BF16 => mixed::gradient::<bf16>(&dy, &Rows::new(weight)),
        DType::F16 => mixed::gradient::<f16>(&dy, &Rows::new(weight)),
        _ => {
            let weight = forward_strides(weight);
            product(Matrix::of_rows(&dy), Matrix::of_tensor(&weight), None)
        }
    };
    tensor(dx, shape)
}

/// `dW = dyᵀ·x`, in f32.
pub(super) fn weight_gradient(dy: FlexTensor, x: FlexTensor) -> FlexTensor {
    let (dy, x) = (Rows::new(dy), Rows::new(x));
    let shape = Shape::from([dy.width(), x.width()]);
    tensor(
        product(Matrix::of_rows(&dy).transposed(), Matrix::of_rows(&x), None),
        shape,
    )
}

/// `db = Σ dy` over the rows.
pub(super) fn bias_gradient(dy: FlexTensor) -> FlexTensor {
    let dy = Rows::new(dy);
    let values = dy.data::<f32>();
    let mut sums = vec![0.0; dy.width()];
    for row in 0..dy.rows() {
        let row = &values[row * dy.stride()..][..dy.width()];
        sums.iter_mut()
            .zip(row)
            .for_each(|(sum, value)| *sum += value);
    }
    let shape = Shape::from([sums.len()]);
    tensor(sums, shape)
}

/// `shape` with its last dimension replaced.
fn with_width(shape: &Shape, width: usize) -> Shape {
    let mut dims = shape.as_slice().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = width;
    }
    Shape::from(dims)
}
