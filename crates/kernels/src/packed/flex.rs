//! Products with a packed weight on the CPU: a stream of codes for few rows, panels for many.

use burn::tensor::Shape;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::Product;
use super::gemv::gemv;
use crate::alone::is_alone;
use crate::cpu::{Decode, Rows, tensor};
use crate::linear::product16::{LowRank, Orientation};
use crate::linear::{in_parts, mixed, product16, with_width};
use crate::precision::Precision;

/// Rows of `x` up to which the codes are streamed, in passes over them.
const STREAMED: usize = 16;

/// Numbers that one task of [`dequantize`] writes.
const TASK: usize = 64 * 1024;

/// `y = x·Wᵀ + b`; x and b are f32.
pub(crate) fn forward(x: FlexTensor, product: &Product, bias: Option<FlexTensor>) -> FlexTensor {
    if is_alone() {
        return in_parts(x, STREAMED, |x| together(x, product, bias.clone()));
    }
    together(x, product, bias)
}

/// [`forward`] of all rows at once.
fn together(x: FlexTensor, product: &Product, bias: Option<FlexTensor>) -> FlexTensor {
    let weight = product.weight.view(product.precision);
    let shape = with_width(x.layout().shape(), weight.shape[0]);
    let rows = shape.num_elements() / weight.shape[0].max(1);
    let streamed = if in_halves(product) { 0 } else { STREAMED };
    if rows > streamed && in_blocks(product.precision) {
        return product16::forward(x, &weight, bias, product.precision);
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

/// `x·Wᵀ + b`, or `x·W`, and a low-rank product; [`product16::takes_more`] says when.
pub(crate) fn product_and(
    x: &Rows,
    product: &Product,
    more: LowRank<'_>,
    orientation: Orientation,
    bias: Option<FlexTensor>,
) -> Vec<f32> {
    let precision = product.precision;
    let weight = product.weight.view(precision);
    product16::product_and(x, &weight, more, orientation, bias, precision)
}

/// Whether few rows, too, meet numbers rounded to bf16 in products of pairs.
fn in_halves(product: &Product) -> bool {
    product.precision == Precision::Bf16 && product16::in_pairs()
}

fn in_blocks(precision: Precision) -> bool {
    precision == Precision::Bf16 || product16::in_full()
}

/// `dx = dy·W`.
pub(crate) fn x_gradient(dy: FlexTensor, product: &Product) -> FlexTensor {
    let weight = product.weight.view(product.precision);
    if in_blocks(product.precision) {
        return product16::gradient(dy, &weight, product.precision);
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
