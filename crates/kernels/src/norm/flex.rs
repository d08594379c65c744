//! Both normalizations on the CPU.

use std::mem::MaybeUninit;

use burn::tensor::{DType, Shape};
use burn_flex::FlexTensor;
use half::bf16;
use rayon::prelude::*;

use super::Norm;
use crate::cpu::{Rows, Stored, fill_rows, tensor};
use crate::simd::{Kernel, Simd, dispatch, read, write, write_new};

/// Rows whose contributions to the gradients of weight and bias are added up before those of the
/// next block; fixed, so that the sums do not depend on the number of threads.
const BLOCK: usize = 32;

/// `y = x̂·weight + bias` in f32 with `x̂ = (x − μ)·r`; `μ = 0` unless `centred`; x is f32 or bf16.
pub(super) fn forward(
    x: FlexTensor,
    weight: FlexTensor,
    bias: Option<FlexTensor>,
    norm: Norm,
) -> FlexTensor {
    match x.dtype() {
        DType::BF16 => forward_of::<bf16>(x, weight, bias, norm),
        _ => forward_of::<f32>(x, weight, bias, norm),
    }
}

fn forward_of<E: Stored>(
    x: FlexTensor,
    weight: FlexTensor,
    bias: Option<FlexTensor>,
    norm: Norm,
) -> FlexTensor {
    let shape = x.layout().shape().clone();
    let (x, weight, bias) = (Rows::new(x), Rows::new(weight), bias.map(Rows::new));
    let (width, stride) = (x.width(), x.stride());
    let (values, weight) = (x.data::<E>(), weight.data::<f32>());
    let bias = bias.as_ref().map(Rows::data::<f32>);
    #[allow(unsafe_code, reason = "the output is not zeroed first")]
    // SAFETY: `Forward` writes the whole of each row it is given.
    let [y] = unsafe {
        fill_rows(x.rows(), width, width, |rows, [y]| {
            for (row, y) in rows.zip(y.chunks_exact_mut(width)) {
                let x = &values[row * stride..][..width];
                dispatch(Forward {
                    x,
                    weight,
                    bias,
                    norm,
                    y,
                });
            }
        })
    };
    tensor(y, shape)
}

/// One row of [`forward`].
struct Forward<'a, E> {
    x: &'a [E],
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    norm: Norm,
    y: &'a mut [MaybeUninit<f32>],
}

impl<E: Stored> Kernel for Forward<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (mean, scale) = statistics(s, self.x, self.norm);
        let (mean, scale) = (s.splat(mean), s.splat(scale));
        for at in (0..self.y.len()).step_by(S::LANES) {
            let normal = s.mul(s.sub(read(s, self.x, at), mean), scale);
            let weight = read(s, self.weight, at);
            let y = match self.bias {
                Some(bias) => s.mul_add(normal, weight, read(s, bias, at)),
                None => s.mul(normal, weight),
            };
            write_new(s, y, self.y, at);
        }
    }
}

/// The mean (zero unless `centred`) and `1 / √(mean((x − mean)²) + eps)` of a row.
#[inline(always)]
fn statistics<S: Simd, E: Stored>(s: S, x: &[E], norm: Norm) -> (f32, f32) {
    let n = x.len() as f32;
    let mut mean = 0.0;
    if norm.centred {
        let mut sum = s.splat(0.0);
        for at in (0..x.len()).step_by(S::LANES) {
            sum = s.add(sum, read(s, x, at));
        }
        mean = s.sum(sum) / n;
    }
    let whole = x.len() - x.len() % S::LANES;
    let centre = s.splat(mean);
    let mut sum = s.splat(0.0);
    for at in (0..whole).step_by(S::LANES) {
        let d = s.sub(read(s, x, at), centre);
        sum = s.mul_add(d, d, sum);
    }
    let distance = |x: &E| x.to_f32() - mean;
    let rest: f32 = x[whole..].iter().map(|x| distance(x) * distance(x)).sum();
    let mean_square = f64::from((s.sum(sum) + rest) / n);
    #[allow(
        clippy::cast_possible_truncation,
        reason = "rounded to the compute type"
    )]
    let scale = (1.0 / (mean_square + norm.eps).sqrt()) as f32;
    (mean, scale)
}

/// The gradients of `x`, `weight` and `bias` for the output gradient `dy`; the latter two are
/// zero-length unless `affine`.
///
/// With `h = dy·weight`: `dx = r·(h − mean(h) − x̂·mean(h·x̂))` (without `mean(h)` unless
/// `centred`), `dweight = Σ dy·x̂` and `dbias = Σ dy` over the rows.
pub(super) fn backward(
    x: FlexTensor,
    weight: FlexTensor,
    dy: FlexTensor,
    norm: Norm,
    affine: bool,
) -> [FlexTensor; 3] {
    match x.dtype() {
        DType::BF16 => backward_of::<bf16>(x, weight, dy, norm, affine),
        _ => backward_of::<f32>(x, weight, dy, norm, affine),
    }
}

fn backward_of<E: Stored>(
    x: FlexTensor,
    weight: FlexTensor,
    dy: FlexTensor,
    norm: Norm,
    affine: bool,
) -> [FlexTensor; 3] {
    let shape = x.layout().shape().clone();
    let (x, weight, dy) = (Rows::new(x), Rows::new(weight), Rows::new(dy));
    let (rows, width) = (x.rows(), x.width());
    let (values, weight, slopes) = (x.data::<E>(), weight.data::<f32>(), dy.data::<f32>());
    let sums = if affine { width } else { 0 };
    let blocks = rows.div_ceil(BLOCK);
    let mut dx = vec![0.0; rows * width];
    let mut partial = vec![0.0; blocks * 2 * sums];
    let block = |index: usize, dx: &mut [f32], partial: &mut [f32]| {
        let (dweight, dbias) = partial.split_at_mut(sums);
        for (i, dx) in dx.chunks_exact_mut(width.max(1)).enumerate() {
            let row = index * BLOCK + i;
            let x = &values[row * x.stride()..][..width];
            let dy = &slopes[row * dy.stride()..][..width];
            dispatch(Backward {
                x,
                weight,
                dy,
                norm,
                dx,
                dweight,
                dbias,
            });
        }
    };
    if affine {
        dx.par_chunks_mut((BLOCK * width).max(1))
            .zip(partial.par_chunks_mut((2 * sums).max(1)))
            .enumerate()
            .for_each(|(index, (dx, partial))| block(index, dx, partial));
    } else {
        dx.par_chunks_mut((BLOCK * width).max(1))
            .enumerate()
            .for_each(|(index, dx)| block(index, dx, &mut []));
    }
    let mut totals = vec![0.0f32; 2 * sums];
    for partial in partial.chunks_exact((2 * sums).max(1)) {
        totals
            .iter_mut()
            .zip(partial)
            .for_each(|(total, part)| *total += part);
    }
    let dbias = totals.split_off(sums);
    [
        tensor(dx, shape),
        tensor(totals, Shape::from([sums])),
        tensor(dbias, Shape::from([sums])),
    ]
}

/// One row of [`backward`]; adds to `dweight` and `dbias` if they are there.
struct Backward<'a, E> {
    x: &'a [E],
    weight: &'a [f32],
    dy: &'a [f32],
    norm: Norm,
    dx: &'a mut [f32],
    dweight: &'a mut [f32],
    dbias: &'a mut [f32],
}

impl<E: Stored> Kernel for Backward<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.dx.len();
        let (mean, scale) = statistics(s, self.x, self.norm);
        let (mean, scale) = (s.splat(mean), s.splat(scale));
        let (mut along_one, mut along_normal) = (s.splat(0.0), s.splat(0.0));
        for at in (0..n).step_by(S::LANES) {
            // Lanes past the end have dy = 0 and add nothing.
            let normal = s.mul(s.sub(read(s, self.x, at), mean), scale);
            let h = s.mul(read(s, self.dy, at), read(s, self.weight, at));
            along_one = s.add(along_one, h);
            along_normal = s.mul_add(h, normal, along_normal);
        }
        let along_one = if self.norm.centred {
            s.sum(along_one) / n as f32
        } else {
            0.0
        };
        let along_one = s.splat(along_one);
        let along_normal = s.splat(s.sum(along_normal) / n as f32);
        for at in (0..n).step_by(S::LANES) {
            let normal = s.mul(s.sub(read(s, self.x, at), mean), scale);
            let dy = read(s, self.dy, at);
            let h = s.mul(dy, read(s, self.weight, at));
            let flat = s.sub(h, s.mul_add(normal, along_normal, along_one));
            write(s, s.mul(scale, flat), self.dx, at);
            if !self.dweight.is_empty() {
                let dweight = s.mul_add(dy, normal, read(s, self.dweight, at));
                write(s, dweight, self.dweight, at);
                let dbias = s.add(dy, read(s, self.dbias, at));
                write(s, dbias, self.dbias, at);
            }
        }
    }
}
