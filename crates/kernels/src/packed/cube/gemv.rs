//! Few rows: each plane streams some rows of packed codes once, 16 bytes a load.
#![allow(missing_docs, reason = "the macro makes items without documentation")]

use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_storage_type;
use burn::tensor::Shape;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::decode::{Scales, decode, load_table, round_bf16};
use super::{Layout, Packed};
use crate::cube::{MAX_CUBES, empty, narrow, plane_size, rows, spread, sum_lanes};
use crate::precision::Precision;

/// The most rows of x that this form takes.
pub(super) const MAX_ROWS: usize = 16;

/// 32-bit words of a load.
const WORDS: usize = 4;

/// The most rows of x in one pass over the weight.
const PASS_ROWS: usize = 8;

/// Rows of the weight from which on each group of lanes takes four at once, not two: fewer loads
/// of x, and still enough groups for every processor.
const MANY_OUTPUTS: usize = 8192;

/// Units of a cube.
const UNITS: u32 = 128;

/// Units that share a row of the weight where planes do not help.
const LANES: u32 = 32;

/// What a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Plan {
    /// Rows of x in a pass.
    rows: usize,
    /// Rows of the weight that a group of lanes takes at once.
    outputs: usize,
    /// Units that share a row.
    lanes: usize,
    /// Whether the lanes are one plane.
    plane: bool,
    int8: bool,
    bf16: bool,
}

/// Whether loads of 16 bytes fit rows and blocks.
pub(super) fn fits(layout: &Layout) -> bool {
    let codes = WORDS * layout.per_word();
    !layout.transposed
        && layout.d_out <= MAX_CUBES * 2
        && layout.d_in.is_multiple_of(codes)
        && layout.block_size.is_multiple_of(codes)
}

/// `y = x·Wᵀ` for up to [`MAX_ROWS`] rows.
pub(super) fn product(x: CubeTensor, weight: Packed<CubeBackend>) -> CubeTensor {
    let layout = weight.layout;
    let n_rows = x.shape()[0];
    let client = x.client.clone();
    let plane = plane_size(&client).filter(|&size| size <= UNITS);
    let lanes = plane.unwrap_or(LANES);
    let plan = Plan {
        rows: n_rows.next_power_of_two().min(PASS_ROWS),
        outputs: if layout.d_out < MANY_OUTPUTS { 2 } else { 4 },
        lanes: lanes as usize,
        plane: plane.is_some(),
        int8: layout.int8,
        bf16: layout.precision == Precision::Bf16,
    };
    let groups = UNITS / lanes;
    let cubes = CubeCount::new_2d(
        narrow(layout.d_out.div_ceil(plan.outputs * groups as usize)),
        narrow(n_rows.div_ceil(plan.rows)),
    );
    let dtype = x.dtype();
    let x = if plan.bf16 { rounded(x) } else { x };
    let y = empty(&x, Shape::new([n_rows, layout.d_out]), dtype);
    let (codes, codebook, scales) = weight.arguments();
    #[allow(unsafe_code, reason = "a launch without bounds checks")]
    // SAFETY: rows of x and of the weight are clamped to those there are, chunks to those of a
    // row, which `fits` made whole; only rows and columns of y that exist are written.
    unsafe {
        kernel::launch_unchecked(
            &client,
            cubes,
            CubeDim::new_2d(lanes, groups),
            rows(x),
            codes,
            codebook,
            scales,
            y.clone().into_buffer_arg(),
            narrow(n_rows) as usize,
            layout.d_in,
            layout.d_out,
            plan,
            dtype_to_storage_type(dtype),
        );
    }
    y
}

#[cube(launch_unchecked)]
fn kernel<F: Float>(
    x: &[Vector<F, Const<4>>],
    codes: &[Vector<u32, Const<4>>],
    codebook: &[f32],
    scales: &Scales,
    y: &mut [F],
    n_rows: usize,
    d_in: usize,
    d_out: usize,
    #[comptime] plan: Plan,
    #[define(F)] _dtype: ElemType,
) {
    let per_word = comptime!(if plan.int8 { 4usize } else { 8 });
    let per_chunk = comptime!(per_word * 4);
    let quads = comptime!(per_word / 4);
    let table = load_table(codebook, plan.int8);

    let lane = UNIT_POS_X as usize;
    let group = (CUBE_POS_X * CUBE_DIM_Y + UNIT_POS_Y) as usize;
    let first_row = CUBE_POS_Y as usize * plan.rows;
    let first = group * plan.outputs;
    let chunks = d_in / per_chunk;

    let mut sums = Array::<f32>::new(comptime!(plan.rows * plan.outputs));
    #[unroll]
    for i in 0..comptime!(plan.rows * plan.outputs) {
        sums[i] = 0.0;
    }
    let mut words = Array::<Vector<u32, Const<4>>>::new(plan.outputs);
    let mut scale = Array::<f32>::new(plan.outputs);
    let mut values = Array::<f32>::new(comptime!(plan.outputs * per_word));

    let mut chunk = lane;
    while chunk < chunks {
        #[unroll]
        for o in 0..plan.outputs {
            let output = usize::min(first + o, d_out - 1);
            let at = output * chunks + chunk;
            words[o] = codes[at];
            scale[o] = scales.of(at * per_chunk);
        }
        #[unroll]
        for w in 0..4usize {
            #[unroll]
            for o in 0..plan.outputs {
                let word = words[o].extract(w);
                #[unroll]
                for j in 0..per_word {
                    let value = decode(word, comptime!(narrow(j)), &table, plan.int8);
                    let slot = comptime!(o * per_word + j);
                    if comptime!(plan.bf16) {
                        values[slot] = round_bf16(value * scale[o]);
                    } else {
                        values[slot] = value;
                    }
                }
            }
            #[unroll]
            for r in 0..plan.rows {
                let row = usize::min(first_row + r, n_rows - 1);
                let at = (row * d_in + chunk * per_chunk) / 4 + comptime!(w * quads);
                let mut parts = Array::<f32>::new(plan.outputs);
                #[unroll]
                for o in 0..plan.outputs {
                    parts[o] = 0.0;
                }
                #[unroll]
                for q in 0..quads {
                    let four = x[at + q];
                    #[unroll]
                    for j in 0..4usize {
                        let xj = f32::cast_from(four.extract(j));
                        #[unroll]
                        for o in 0..plan.outputs {
                            parts[o] += xj * values[comptime!(o * per_word + q * 4 + j)];
                        }
                    }
                }
                #[unroll]
                for o in 0..plan.outputs {
                    let slot = comptime!(r * plan.outputs + o);
                    if comptime!(plan.bf16) {
                        sums[slot] += parts[o];
                    } else {
                        sums[slot] += parts[o] * scale[o];
                    }
                }
            }
        }
        chunk += plan.lanes;
    }

    let mut shared = Shared::<[f32]>::new_slice(comptime!(if plan.plane { 1usize } else { 128 }));
    #[unroll]
    for r in 0..plan.rows {
        #[unroll]
        for o in 0..plan.outputs {
            let own = sums[comptime!(r * plan.outputs + o)];
            let sum = if comptime!(plan.plane) {
                plane_sum(own)
            } else {
                sum_lanes(own, &mut shared, plan.lanes)
            };
            let row = first_row + r;
            if lane == 0 && row < n_rows && first + o < d_out {
                y[row * d_out + first + o] = F::cast_from(sum);
            }
        }
    }
}

/// x with every number rounded to bf16, in its own dtype.
fn rounded(x: CubeTensor) -> CubeTensor {
    let (client, dtype, numel) = (x.client.clone(), x.dtype(), x.shape().num_elements());
    let y = empty(&x, x.shape(), dtype);
    #[allow(unsafe_code, reason = "a launch without bounds checks")]
    // SAFETY: units past the last number do nothing.
    unsafe {
        round::launch_unchecked(
            &client,
            spread(numel.div_ceil(UNITS as usize)),
            CubeDim::new_1d(UNITS),
            rows(x),
            y.clone().into_buffer_arg(),
            numel,
            dtype_to_storage_type(dtype),
        );
    }
    y
}

#[cube(launch_unchecked)]
fn round<F: Float>(x: &[F], y: &mut [F], numel: usize, #[define(F)] _dtype: ElemType) {
    if ABSOLUTE_POS < numel {
        y[ABSOLUTE_POS] = F::cast_from(round_bf16(f32::cast_from(x[ABSOLUTE_POS])));
    }
}
