#![allow(missing_docs, reason = "the macro makes items without documentation")]

use cubecl::prelude::*;

/// The sum of a number over the units along x of a cube, by halves; `lanes`, a power of two, is
/// how many there are, and `shared` has room for the whole cube.
#[cube]
pub(crate) fn sum_lanes(own: f32, shared: &mut Shared<[f32]>, #[comptime] lanes: usize) -> f32 {
    let unit = UNIT_POS as usize;
    let lane = UNIT_POS_X as usize;
    sync_cube();
    shared[unit] = own;
    sync_cube();
    let mut half = comptime!(lanes / 2).runtime();
    while half > 0 {
        if lane < half {
            shared[unit] += shared[unit + half];
        }
        sync_cube();
        half /= 2;
    }
    shared[unit - lane]
}
