//! Products with a packed weight on the CPU: a stream of codes for few rows, panels for many.

use burn::tensor::Shape;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::Product;
use super::gemv::gemv;
use crate::cpu::{Decode, Rows, tensor};
use crate::linear::{mixed, product16, with_width};
use crate::precision::Precision;

/// Rows of `x` up to which the codes are streamed, in passes over them.
const STREAMED: usize = 16;

/// Numbers that one task of [`dequantize`] writes.
const TASK: usize = 64 * 1024;

/// `y = x·Wᵀ + b`; x and b are f32.
pub(crate) fn forward(x: FlexTensor, product: &Product, bias: Option<FlexTensor>) -> FlexTensor {
    let weight = product.weight.view(product.precision);
    let shape = with_width(x.layout().shape(), weight.shape[0]);
    let rows = shape.num_elements() / weight.shape[0].max(1);
    if rows > STREAMED && product.precision == Precision::Bf16 {
        return product16::forward(x, &weight, bias);
    }
    let x = Rows::new(x);
    let bias = bias.map(Rows::new);
    let bias = bias.as_ref().map(Rows::data::<f32>);
    let y = if rows <= STREAMED {
        gemv(&x, &weight, bias)
    } else {
        mixed::forward(&x, &weight, bias)
    };
    tensor(y, shape)
}

/// `dx = dy·W`.
pub(crate) fn x_gradient(dy: FlexTensor, product: &Product) -> FlexTensor {
    let weight = product.weight.view(product.precision);
    if product.precision == Precision::Bf16 {
        return product16::gradient(dy, &weight);
    }
    let shape = with_width(dy.layout().shape(), weight.shape[1]);
    tensor(mixed::gradient(&Rows::new(dy), &weight), shape)
}

/// The numbers of the weight.
pub(super) fn dequantize(weight: &super::native::Native) -> FlexTensor {
    let weight = weight.view(Precision::Full);
    let [d_out, d_in] = weight.shape;
    let mut numbers = vec![0.0; d_out * d_in];
    let rows = TASK.div_ceil(d_in.max(1));
    let tasks = numbers.par_chunks_mut((rows * d_in).max(1)).enumerate();
    tasks.for_each(|(task, numbers)| {
        let first = task * rows;
        weight.decode(first..(first + rows).min(d_out), 0..d_in, numbers);
    });
    tensor(numbers, Shape::from([d_out, d_in]))
}
