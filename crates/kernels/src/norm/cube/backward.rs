#![allow(missing_docs, reason = "the macro makes items without documentation")]

use burn::backend::Autodiff;
use burn::backend::TensorMetadata;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::cubecl::dtype_to_storage_type;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use cubecl::prelude::*;

use super::super::Norm;
use super::{NormCubeGradients, NormCubeOps, UNITS, eps, sides, statistics};
use crate::cube::{self, sum_lanes};

/// Blocks of rows whose contributions to the gradient of the weight are added up apart; fixed, so
/// that the order of the sum depends on the shape alone.
const BLOCKS: usize = 32;

#[derive(Debug)]
struct NormBackward;

impl<B: NormCubeGradients> Backward<B, 2> for NormBackward {
    type State = (FloatTensor<B>, FloatTensor<B>, Norm);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let (x, weight, norm) = ops.state;
        let [x_parent, weight_parent] = ops.parents;
        if let Some(parent) = weight_parent {
            let gradient = B::norm_cube_weight_gradient(x.clone(), dy.clone(), norm);
            grads.register::<B>(parent.id, gradient);
        }
        if let Some(parent) = x_parent {
            let gradient = B::norm_cube_x_gradient(x, weight, dy, norm);
            grads.register::<B>(parent.id, gradient);
        }
    }
}

impl<B: NormCubeOps + NormCubeGradients, C: CheckpointStrategy> NormCubeOps for Autodiff<B, C> {
    fn norm_cube(x: FloatTensor<Self>, weight: FloatTensor<Self>, norm: Norm) -> FloatTensor<Self> {
        let (x, x_node) = x.into_parts();
        let (weight, weight_node) = weight.into_parts();
        match NormBackward
            .prepare::<C>([x_node, weight_node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let state = (x.clone(), weight.clone(), norm);
                prep.finish(state, B::norm_cube(x, weight, norm))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::norm_cube(x, weight, norm)),
        }
    }
}

impl NormCubeGradients for CubeBackend {
    fn norm_cube_x_gradient(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        norm: Norm,
    ) -> FloatTensor<Self> {
        let (client, dtype) = (x.client.clone(), x.dtype());
        let [rows, width] = sides(&x.shape());
        let dx = cube::empty(&x, x.shape(), dtype);
        #[allow(unsafe_code, reason = "a launch without bounds checks")]
        // SAFETY: cubes past the last row write nothing and read the last; units stay in a row.
        unsafe {
            x_gradient::launch_unchecked(
                &client,
                cube::spread(rows),
                CubeDim::new_1d(cube::narrow(UNITS)),
                cube::rows(x),
                cube::rows(weight),
                cube::rows(dy),
                dx.clone().into_buffer_arg(),
                rows,
                width,
                eps(norm),
                norm.centred,
                dtype_to_storage_type(dtype),
            );
        }
        dx
    }

    fn norm_cube_weight_gradient(
        x: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        norm: Norm,
    ) -> FloatTensor<Self> {
        let (client, dtype) = (x.client.clone(), x.dtype());
        let [rows, width] = sides(&x.shape());
        let found = cube::empty(&x, Shape::new([rows, 2]), DType::F32);
        let sums = cube::empty(&x, Shape::new([BLOCKS, width]), DType::F32);
        let x = burn_cubecl::kernel::into_contiguous(x);
        #[allow(unsafe_code, reason = "launches without bounds checks")]
        // SAFETY: in the first, cubes past the last row write nothing and read the last, and units
        // stay in a row; in the second, units past the last column do nothing, and each reads its
        // column of the rows of its block alone.
        unsafe {
            all_statistics::launch_unchecked(
                &client,
                cube::spread(rows),
                CubeDim::new_1d(cube::narrow(UNITS)),
                cube::rows(x.clone()),
                found.clone().into_buffer_arg(),
                rows,
                width,
                eps(norm),
                norm.centred,
                dtype_to_storage_type(dtype),
            );
            column_sums::launch_unchecked(
                &client,
                CubeCount::new_2d(cube::narrow(width.div_ceil(UNITS)), cube::narrow(BLOCKS)),
                CubeDim::new_1d(cube::narrow(UNITS)),
                cube::rows(x),
                cube::rows(dy),
                found.into_buffer_arg(),
                sums.clone().into_buffer_arg(),
                rows,
                width,
                dtype_to_storage_type(dtype),
            );
        }
        let total = Self::float_sum_dim(sums, 0);
        Self::float_reshape(total, Shape::new([width]))
    }
}

/// With `h = dy·weight`: `dx = r·(h − mean(h) − x̂·mean(h·x̂))`, without `mean(h)` unless centred.
#[cube(launch_unchecked)]
fn x_gradient<F: Float>(
    x: &[F],
    weight: &[f32],
    dy: &[F],
    dx: &mut [F],
    rows: usize,
    width: usize,
    eps: f32,
    #[comptime] centred: bool,
    #[define(F)] _dtype: ElemType,
) {
    let mut shared = Shared::<[f32]>::new_slice(comptime!(UNITS));
    let row = usize::min(CUBE_POS, rows - 1);
    let first = row * width;
    let (mean, scale) = statistics::<F>(x, first, width, eps, &mut shared, centred);
    let count = f32::cast_from(width);
    let mut ones = 0.0f32;
    let mut normals = 0.0f32;
    let mut at = UNIT_POS as usize;
    while at < width {
        let h = f32::cast_from(dy[first + at]) * weight[at];
        ones += h;
        normals += h * ((f32::cast_from(x[first + at]) - mean) * scale);
        at += comptime!(UNITS);
    }
    let along_normal = sum_lanes(normals, &mut shared, UNITS) / count;
    let along_one = if comptime!(centred) {
        sum_lanes(ones, &mut shared, UNITS) / count
    } else {
        0.0f32.runtime()
    };
    if CUBE_POS < rows {
        let mut at = UNIT_POS as usize;
        while at < width {
            let h = f32::cast_from(dy[first + at]) * weight[at];
            let normal = (f32::cast_from(x[first + at]) - mean) * scale;
            dx[first + at] = F::cast_from(scale * (h - along_one - normal * along_normal));
            at += comptime!(UNITS);
        }
    }
}

/// The mean and the scale of each row.
#[cube(launch_unchecked)]
fn all_statistics<F: Float>(
    x: &[F],
    found: &mut [f32],
    rows: usize,
    width: usize,
    eps: f32,
    #[comptime] centred: bool,
    #[define(F)] _dtype: ElemType,
) {
    let mut shared = Shared::<[f32]>::new_slice(comptime!(UNITS));
    let row = usize::min(CUBE_POS, rows - 1);
    let (mean, scale) = statistics::<F>(x, row * width, width, eps, &mut shared, centred);
    if CUBE_POS < rows && UNIT_POS == 0 {
        found[2 * row] = mean;
        found[2 * row + 1] = scale;
    }
}

/// `Σ dy·x̂` over the rows of each block.
#[cube(launch_unchecked)]
fn column_sums<F: Float>(
    x: &[F],
    dy: &[F],
    found: &[f32],
    sums: &mut [f32],
    rows: usize,
    width: usize,
    #[define(F)] _dtype: ElemType,
) {
    let col = ABSOLUTE_POS_X as usize;
    let block = CUBE_POS_Y as usize;
    let each = rows.div_ceil(comptime!(BLOCKS));
    if col < width {
        let mut sum = 0.0f32;
        let mut row = block * each;
        let end = usize::min(row + each, rows);
        while row < end {
            let normal =
                (f32::cast_from(x[row * width + col]) - found[2 * row]) * found[2 * row + 1];
            sum += f32::cast_from(dy[row * width + col]) * normal;
            row += 1;
        }
        sums[block * width + col] = sum;
    }
}
