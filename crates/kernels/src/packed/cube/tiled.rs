//! Many rows: tiles of the weight are decoded into memory that a cube shares, and multiplied from
//! there, on tensor cores where the device has them for 16-bit operands. Takes every size; sizes
//! and blocks of whole words are decoded a word at a time.
#![allow(missing_docs, reason = "the macro makes items without documentation")]

use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_storage_type;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::ir::features::MmaConfig;
use cubecl::prelude::*;

use super::decode::{Scales, decode, load_table, round_bf16};
use super::multiply::{on_tensor_cores, on_units};
use super::{Layout, Packed};
use crate::cube::{MAX_CUBES, empty, narrow, plane_size, rows};
use crate::precision::Precision;

/// Units of a plane where tensor cores are used, and along one axis of every cube.
pub(super) const LANES: usize = 32;

/// Units of a cube.
pub(super) const UNITS: usize = 256;

/// What a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Plan {
    /// Rows of a tile of the result.
    pub(super) tile_rows: usize,
    /// Columns of a tile of the result.
    pub(super) tile_cols: usize,
    /// Steps of the reduction between two loads.
    pub(super) depth: usize,
    /// Numbers between the lines of a tile, so that neighbours lie in different banks.
    pub(super) pad: usize,
    /// Whether the reduction runs over the rows of the weight.
    pub(super) transposed: bool,
    pub(super) tensor_cores: bool,
    /// Codes decoded at once: a word's, or one.
    run: usize,
    int8: bool,
    /// Whether operands are rounded to bf16 before they become what tiles hold.
    bf16: bool,
}

impl Plan {
    /// Numbers from one line of the tile of x to the next: lines are rows.
    pub(super) fn x_stride(self) -> usize {
        self.depth + self.pad
    }

    /// Numbers from one line of the tile of the weight to the next.
    ///
    /// Lines follow the rows of the weight: they are columns of the result, or steps of the
    /// reduction where the weight is transposed.
    pub(super) fn w_stride(self) -> usize {
        self.along() + self.pad
    }

    /// The tile along the rows of the weight.
    fn along(self) -> usize {
        if self.transposed {
            self.tile_cols
        } else {
            self.depth
        }
    }

    /// The tile across the rows of the weight.
    fn across(self) -> usize {
        if self.transposed {
            self.depth
        } else {
            self.tile_cols
        }
    }
}

/// How a product is computed: the plan, and the type of the numbers in tiles.
fn plan(client: &Client, layout: &Layout, n_rows: usize, x: DType) -> (Plan, DType) {
    let word = layout.per_word();
    let whole = layout.d_in.is_multiple_of(word) && layout.block_size.is_multiple_of(word);
    let rounds = layout.precision == Precision::Bf16;
    let half = match x {
        DType::F16 if !rounds => Some(DType::F16),
        DType::F32 if !rounds => None,
        _ => Some(DType::BF16),
    };
    let half = half.filter(|&half| has_tensor_cores(client, half));
    let roomy = client.properties().hardware.max_shared_memory_size >= 32 << 10;
    let plan = Plan {
        tile_rows: match n_rows {
            ..=32 if half.is_none() => 32,
            ..=64 => 64,
            _ if roomy => 128,
            _ => 64,
        },
        tile_cols: if roomy { 128 } else { 64 },
        depth: if half.is_some() { 32 } else { 16 },
        pad: if half.is_some() { 8 } else { 1 },
        transposed: layout.transposed,
        tensor_cores: half.is_some(),
        run: if whole { word } else { 1 },
        int8: layout.int8,
        bf16: rounds && half != Some(DType::BF16),
    };
    (plan, half.unwrap_or(DType::F32))
}

/// Whether a plane multiplies 16 × 16 fragments of a type with sums in f32.
fn has_tensor_cores(client: &Client, dtype: DType) -> bool {
    let side = 16;
    let elem = dtype_to_storage_type(dtype);
    let config = MmaConfig {
        a_type: elem,
        b_type: elem,
        cd_type: dtype_to_storage_type(DType::F32),
        m: side,
        n: side,
        k: side,
    };
    let properties = client.properties();
    plane_size(client) == Some(narrow(LANES))
        && properties.features.matmul.cmma.contains(&config)
        && properties.hardware.max_shared_memory_size >= 32 << 10
}

/// Whether there can be as many cubes as a side of the result needs.
pub(super) fn fits(side: usize) -> bool {
    side <= MAX_CUBES * 32
}

/// `y = x·Wᵀ`, or `y = x·W` where the layout is transposed.
pub(super) fn product(x: CubeTensor, weight: Packed<CubeBackend>) -> CubeTensor {
    let (plan, tile) = plan(&x.client, &weight.layout, x.shape()[0], x.dtype());
    launch(x, weight, plan, tile)
}

fn launch(x: CubeTensor, weight: Packed<CubeBackend>, plan: Plan, tile: DType) -> CubeTensor {
    let [reduction, columns] = weight.layout.sides();
    let n_rows = x.shape()[0];
    let (client, dtype) = (x.client.clone(), x.dtype());
    let y = empty(&x, Shape::new([n_rows, columns]), dtype);
    let (codes, codebook, scales) = weight.arguments();
    let cubes = CubeCount::new_2d(
        narrow(columns.div_ceil(plan.tile_cols)),
        narrow(n_rows.div_ceil(plan.tile_rows)),
    );
    let vector = if reduction.is_multiple_of(4) { 4 } else { 1 };
    #[allow(unsafe_code, reason = "a launch without bounds checks")]
    // SAFETY: every access to x, the codes and y is guarded by their sizes, and blocks and words
    // of numbers inside the weight exist; positions in shared memory follow from the plan alone.
    unsafe {
        kernel::launch_unchecked(
            &client,
            cubes,
            CubeDim::new_2d(narrow(LANES), narrow(UNITS / LANES)),
            vector,
            rows(x),
            codes,
            codebook,
            scales,
            y.clone().into_buffer_arg(),
            n_rows,
            reduction,
            columns,
            plan,
            [dtype_to_storage_type(dtype), dtype_to_storage_type(tile)],
        );
    }
    y
}

#[cube(launch_unchecked)]
fn kernel<F: Float, T: Float, N: Size>(
    x: &[Vector<F, N>],
    codes: &[u32],
    codebook: &[f32],
    scales: &Scales,
    y: &mut [F],
    n_rows: usize,
    reduction: usize,
    columns: usize,
    #[comptime] plan: Plan,
    #[define(F, T)] _dtypes: [ElemType; 2],
) {
    let table = load_table(codebook, plan.int8);
    let x_len = comptime!(plan.tile_rows * plan.x_stride());
    let w_len = comptime!(plan.across() * plan.w_stride());
    if comptime!(plan.tensor_cores) {
        // Fragments start at multiples of 32 bytes.
        let mut x_tile = Shared::<[T]>::new_aligned_slice(x_len, 32usize);
        let mut w_tile = Shared::<[T]>::new_aligned_slice(w_len, 32usize);
        on_tensor_cores::<F, T, N>(
            x,
            codes,
            scales,
            &table,
            &mut x_tile,
            &mut w_tile,
            y,
            n_rows,
            reduction,
            columns,
            plan,
        );
    } else {
        let mut x_tile = Shared::<[T]>::new_slice(x_len);
        let mut w_tile = Shared::<[T]>::new_slice(w_len);
        on_units::<F, T, N>(
            x,
            codes,
            scales,
            &table,
            &mut x_tile,
            &mut w_tile,
            y,
            n_rows,
            reduction,
            columns,
            plan,
        );
    }
}

/// Fills both tiles for `depth` steps of the reduction from `step` on, with zeros beyond the ends.
#[cube]
pub(super) fn load<F: Float, T: Float, N: Size>(
    x: &[Vector<F, N>],
    codes: &[u32],
    scales: &Scales,
    table: &Shared<[f32]>,
    x_tile: &mut Shared<[T]>,
    w_tile: &mut Shared<[T]>,
    step: usize,
    n_rows: usize,
    reduction: usize,
    columns: usize,
    #[comptime] plan: Plan,
) {
    let lanes = N::value();
    let x_stride = comptime!(plan.x_stride());
    let quads = comptime!(plan.depth / lanes);
    let first_row = CUBE_POS_Y as usize * plan.tile_rows;
    let first_col = CUBE_POS_X as usize * plan.tile_cols;

    let mut at = UNIT_POS as usize;
    while at < comptime!(plan.tile_rows * quads) {
        let (k, r) = (at % quads * lanes, at / quads);
        let mut numbers = Vector::<F, N>::new(F::new(0.0));
        if first_row + r < n_rows && step + k < reduction {
            numbers = x[((first_row + r) * reduction + step + k) / lanes];
        }
        #[unroll]
        for j in 0..lanes {
            let number = numbers.extract(j);
            x_tile[r * x_stride + k + j] = if comptime!(plan.bf16) {
                T::cast_from(round_bf16(f32::cast_from(number)))
            } else {
                T::cast_from(number)
            };
        }
        at += comptime!(UNITS);
    }

    let per_word = comptime!(if plan.int8 { 4usize } else { 8 });
    let w_stride = comptime!(plan.w_stride());
    let runs = comptime!(plan.along() / plan.run);
    let (row, place, height, width) = if comptime!(plan.transposed) {
        (step, first_col, reduction, columns)
    } else {
        (first_col, step, columns, reduction)
    };
    let mut at = UNIT_POS as usize;
    while at < comptime!(runs * plan.across()) {
        let (along, across) = (at % runs * plan.run, at / runs);
        let mut index = 0usize;
        let mut word = 0u32;
        let mut scale = 0.0f32;
        if row + across < height && place + along < width {
            index = (row + across) * width + place + along;
            word = codes[index / per_word];
            scale = scales.of(index);
        }
        #[unroll]
        for j in 0..plan.run {
            let code = if comptime!(plan.run == 1) {
                u32::cast_from(index % per_word)
            } else {
                comptime!(narrow(j)).runtime()
            };
            let mut value = decode(word, code, table, plan.int8) * scale;
            if comptime!(plan.bf16) {
                value = round_bf16(value);
            }
            // Rounded to the dtype of x, as the reference does.
            w_tile[across * w_stride + along + j] = T::cast_from(F::cast_from(value));
        }
        at += comptime!(UNITS);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The product with the tiles of the tensor-core form, multiplied by units: what can be tried
    /// of it without tensor cores.
    pub(in super::super) fn through_half_tiles(
        x: CubeTensor,
        weight: Packed<CubeBackend>,
        tile_rows: usize,
    ) -> CubeTensor {
        let (plan, _) = plan(&x.client, &weight.layout, x.shape()[0], x.dtype());
        let plan = Plan {
            tile_rows,
            tile_cols: 128,
            depth: 32,
            pad: 8,
            ..plan
        };
        launch(x, weight, plan, DType::F16)
    }
}
