//! Both normalizations on the devices that CubeCL reaches: a cube for each row.
#![allow(missing_docs, reason = "the macro makes items without documentation")]

mod backward;

use burn::backend::cubecl::dtype_to_storage_type;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{DType, Shape, Tensor};
use burn_cubecl::CubeBackend;
use cubecl::prelude::*;

use super::Norm;
use crate::cube::{self, sum_lanes};

/// Units of a cube.
const UNITS: usize = 128;

#[backend_extension(Cube, Autodiff, Fusion)]
pub(crate) trait NormCubeOps: Backend {
    /// `(x − μ)·r·weight`, the weight in f32.
    #[fusion(dtype = x, shape = x)]
    fn norm_cube(x: FloatTensor<Self>, weight: FloatTensor<Self>, norm: Norm) -> FloatTensor<Self>;
}

#[backend_extension(Cube, Fusion)]
pub(crate) trait NormCubeGradients: Backend {
    #[fusion(dtype = x, shape = x)]
    fn norm_cube_x_gradient(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        norm: Norm,
    ) -> FloatTensor<Self>;

    #[fusion(dtype = DType::F32, shape = Shape::new([x[x.num_dims() - 1]]))]
    fn norm_cube_weight_gradient(
        x: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        norm: Norm,
    ) -> FloatTensor<Self>;
}

impl NormCubeOps for CubeBackend {
    fn norm_cube(x: FloatTensor<Self>, weight: FloatTensor<Self>, norm: Norm) -> FloatTensor<Self> {
        let (client, dtype) = (x.client.clone(), x.dtype());
        let [rows, width] = sides(&x.shape());
        let y = cube::empty(&x, x.shape(), dtype);
        #[allow(unsafe_code, reason = "a launch without bounds checks")]
        // SAFETY: cubes past the last row write nothing and read the last; units stay in a row.
        unsafe {
            forward::launch_unchecked(
                &client,
                cube::spread(rows),
                CubeDim::new_1d(cube::narrow(UNITS)),
                cube::rows(x),
                cube::rows(weight),
                y.clone().into_buffer_arg(),
                rows,
                width,
                eps(norm),
                norm.centred,
                dtype_to_storage_type(dtype),
            );
        }
        y
    }
}

/// Whether the kernels take these.
///
/// A bias is added afterwards, which rounds twice where x is not in f32.
pub(super) fn takes<const D: usize>(
    x: &Tensor<D>,
    weight: &Tensor<1>,
    bias: Option<&Tensor<1>>,
) -> bool {
    cube::takes(x)
        && cube::takes(weight)
        && bias.is_none_or(|bias| bias.dtype() == DType::F32 && x.dtype() == DType::F32)
}

/// `(x − μ)·r·weight + bias`; `μ = 0` unless centred.
pub(super) fn norm<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    bias: Option<Tensor<1>>,
    norm: Norm,
) -> Tensor<D> {
    let weight = weight.cast(DType::F32).into_dispatch();
    let y = Tensor::<D>::from_dispatch(Dispatch::norm_cube(x.into_dispatch(), weight, norm));
    match bias {
        Some(bias) => y + bias.unsqueeze::<D>(),
        None => y,
    }
}

/// Rows and their width.
fn sides(shape: &Shape) -> [usize; 2] {
    let width = shape[shape.num_dims() - 1];
    [shape.num_elements() / width, width]
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "rounded to the compute type"
)]
fn eps(norm: Norm) -> f32 {
    norm.eps as f32
}

#[cube(launch_unchecked)]
fn forward<F: Float>(
    x: &[F],
    weight: &[f32],
    y: &mut [F],
    rows: usize,
    width: usize,
    eps: f32,
    #[comptime] centred: bool,
    #[define(F)] _dtype: ElemType,
) {
    let mut shared = Shared::<[f32]>::new_slice(comptime!(UNITS));
    let row = usize::min(CUBE_POS, rows - 1);
    let (mean, scale) = statistics::<F>(x, row * width, width, eps, &mut shared, centred);
    if CUBE_POS < rows {
        let mut at = UNIT_POS as usize;
        while at < width {
            let normal = (f32::cast_from(x[row * width + at]) - mean) * scale;
            y[row * width + at] = F::cast_from(normal * weight[at]);
            at += comptime!(UNITS);
        }
    }
}

/// The mean (zero unless `centred`) and `1 / √(mean((x − mean)²) + eps)` of the row at `first`.
#[cube]
fn statistics<F: Float>(
    x: &[F],
    first: usize,
    width: usize,
    eps: f32,
    shared: &mut Shared<[f32]>,
    #[comptime] centred: bool,
) -> (f32, f32) {
    let count = f32::cast_from(width);
    let mut mean = 0.0f32;
    if comptime!(centred) {
        let mut sum = 0.0f32;
        let mut at = UNIT_POS as usize;
        while at < width {
            sum += f32::cast_from(x[first + at]);
            at += comptime!(UNITS);
        }
        mean = sum_lanes(sum, shared, UNITS) / count;
    }
    let mut squares = 0.0f32;
    let mut at = UNIT_POS as usize;
    while at < width {
        let d = f32::cast_from(x[first + at]) - mean;
        squares += d * d;
        at += comptime!(UNITS);
    }
    let mean_square = sum_lanes(squares, shared, UNITS) / count;
    (mean, 1.0 / (mean_square + eps).sqrt())
}
