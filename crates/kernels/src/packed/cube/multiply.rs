//! The two ways to multiply decoded tiles.
#![allow(missing_docs, reason = "the macro makes items without documentation")]

use cubecl::prelude::*;

use super::decode::Scales;
use super::tiled::{LANES, Plan, UNITS, load};
use crate::cube::narrow;

/// Units along an axis of the tile of the result.
const SIDE: usize = 16;

/// Rows and columns of a fragment, and its steps.
const FRAGMENT: usize = 16;

/// Rows of the result that a plane makes on tensor cores.
const PLANE_ROWS: usize = 32;

/// Each unit adds up some numbers of the tile, sixteen rows and columns apart, in f32.
#[cube]
pub(super) fn on_units<F: Float, T: Float, N: Size>(
    x: &[Vector<F, N>],
    codes: &[u32],
    scales: &Scales,
    table: &Shared<[f32]>,
    x_tile: &mut Shared<[T]>,
    w_tile: &mut Shared<[T]>,
    y: &mut [F],
    n_rows: usize,
    reduction: usize,
    columns: usize,
    #[comptime] plan: Plan,
) {
    let sub_rows = comptime!(plan.tile_rows / SIDE);
    let sub_cols = comptime!(plan.tile_cols / SIDE);
    let x_stride = comptime!(plan.x_stride());
    let w_stride = comptime!(plan.w_stride());
    let unit = UNIT_POS as usize;
    let (unit_col, unit_row) = (unit % comptime!(SIDE), unit / comptime!(SIDE));

    let mut sums = Array::<f32>::new(comptime!(sub_rows * sub_cols));
    #[unroll]
    for i in 0..comptime!(sub_rows * sub_cols) {
        sums[i] = 0.0;
    }
    let mut step = 0usize;
    while step < reduction {
        load::<F, T, N>(
            x, codes, scales, table, x_tile, w_tile, step, n_rows, reduction, columns, plan,
        );
        sync_cube();
        for k in 0..plan.depth {
            let mut left = Array::<f32>::new(sub_rows);
            #[unroll]
            for i in 0..sub_rows {
                let row = unit_row + comptime!(i * SIDE);
                left[i] = f32::cast_from(x_tile[row * x_stride + k]);
            }
            #[unroll]
            for j in 0..sub_cols {
                let col = unit_col + comptime!(j * SIDE);
                let at = if comptime!(plan.transposed) {
                    k * w_stride + col
                } else {
                    col * w_stride + k
                };
                let right = f32::cast_from(w_tile[at]);
                #[unroll]
                for i in 0..sub_rows {
                    sums[comptime!(i * sub_cols + j)] += left[i] * right;
                }
            }
        }
        sync_cube();
        step += plan.depth;
    }
    #[unroll]
    for i in 0..sub_rows {
        #[unroll]
        for j in 0..sub_cols {
            let row = CUBE_POS_Y as usize * plan.tile_rows + unit_row + comptime!(i * SIDE);
            let col = CUBE_POS_X as usize * plan.tile_cols + unit_col + comptime!(j * SIDE);
            if row < n_rows && col < columns {
                y[row * columns + col] = F::cast_from(sums[comptime!(i * sub_cols + j)]);
            }
        }
    }
}

/// Each plane adds up 32 rows and some columns of the tile in fragments, in f32.
#[cube]
pub(super) fn on_tensor_cores<F: Float, T: Float, N: Size>(
    x: &[Vector<F, N>],
    codes: &[u32],
    scales: &Scales,
    table: &Shared<[f32]>,
    x_tile: &mut Shared<[T]>,
    w_tile: &mut Shared<[T]>,
    y: &mut [F],
    n_rows: usize,
    reduction: usize,
    columns: usize,
    #[comptime] plan: Plan,
) {
    let size = comptime!(FRAGMENT);
    let x_stride = comptime!(plan.x_stride());
    let w_stride = comptime!(plan.w_stride());
    let w_layout = comptime!(if plan.transposed {
        cmma::MatrixLayout::RowMajor
    } else {
        cmma::MatrixLayout::ColMajor
    });
    // Planes over the tile, rows first; fragments of a plane.
    let down = comptime!(plan.tile_rows / PLANE_ROWS);
    let plane_cols = comptime!(plan.tile_cols * down * LANES / UNITS);
    let frag_rows = comptime!(PLANE_ROWS / FRAGMENT);
    let frag_cols = comptime!(plane_cols / FRAGMENT);
    let plane = UNIT_POS_Y as usize;
    let row_in_tile = plane % down * comptime!(PLANE_ROWS);
    let col_in_tile = plane / down * plane_cols;

    let mut sums = Sequence::<cmma::Matrix<f32>>::new();
    #[unroll]
    for _ in 0..comptime!(frag_rows * frag_cols) {
        sums.push(cmma::Matrix::<f32>::from_value(
            cmma::MatrixIdent::Accumulator,
            size,
            size,
            size,
            cmma::MatrixLayout::Undefined,
            0.0,
        ));
    }
    let mut step = 0usize;
    while step < reduction {
        load::<F, T, N>(
            x, codes, scales, table, x_tile, w_tile, step, n_rows, reduction, columns, plan,
        );
        sync_cube();
        #[unroll]
        for k in 0..comptime!(plan.depth / FRAGMENT) {
            let mut left = Sequence::<cmma::Matrix<T>>::new();
            #[unroll]
            for i in 0..frag_rows {
                let row = row_in_tile + comptime!(i * FRAGMENT);
                let at = row * x_stride + comptime!(k * FRAGMENT);
                left.push(cmma::Matrix::<T>::from_slice(
                    cmma::MatrixIdent::A,
                    size,
                    size,
                    size,
                    cmma::MatrixLayout::RowMajor,
                    &x_tile[at..x_tile.len()],
                    comptime!(narrow(x_stride)).runtime(),
                ));
            }
            #[unroll]
            for j in 0..frag_cols {
                let col = col_in_tile + comptime!(j * FRAGMENT);
                let at = if comptime!(plan.transposed) {
                    comptime!(k * FRAGMENT * w_stride) + col
                } else {
                    col * w_stride + comptime!(k * FRAGMENT)
                };
                let right = cmma::Matrix::<T>::from_slice(
                    cmma::MatrixIdent::B,
                    size,
                    size,
                    size,
                    w_layout,
                    &w_tile[at..w_tile.len()],
                    comptime!(narrow(w_stride)).runtime(),
                );
                #[unroll]
                for i in 0..frag_rows {
                    let sum = sums.index(comptime!(i * frag_cols + j));
                    cmma::execute(left.index(i), &right, sum, sum);
                }
            }
        }
        sync_cube();
        step += plan.depth;
    }

    // Through shared memory, a fragment of each plane at a time, so that ends can be guarded.
    let area = comptime!(FRAGMENT * FRAGMENT);
    let mut scratch = Shared::<[f32]>::new_slice(comptime!(UNITS / LANES * FRAGMENT * FRAGMENT));
    let first = plane * area;
    #[unroll]
    for i in 0..frag_rows {
        #[unroll]
        for j in 0..frag_cols {
            cmma::store(
                &mut scratch[first..first + area],
                sums.index(comptime!(i * frag_cols + j)),
                comptime!(narrow(FRAGMENT)).runtime(),
                cmma::MatrixLayout::RowMajor,
            );
            sync_cube();
            let mut at = UNIT_POS_X as usize;
            while at < area {
                let row = CUBE_POS_Y as usize * plan.tile_rows
                    + row_in_tile
                    + comptime!(i * FRAGMENT)
                    + at / size;
                let col = CUBE_POS_X as usize * plan.tile_cols
                    + col_in_tile
                    + comptime!(j * FRAGMENT)
                    + at % size;
                if row < n_rows && col < columns {
                    y[row * columns + col] = F::cast_from(scratch[first + at]);
                }
                at += comptime!(LANES);
            }
            sync_cube();
        }
    }
}
