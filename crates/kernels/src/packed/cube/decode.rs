#![allow(missing_docs, reason = "the macro makes items without documentation")]

use cubecl::prelude::*;

/// The scales of a packed weight, decoded where they are used.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Scales {
    /// The scale of each block, or of each block of scales.
    absmax: Box<[f32]>,
    nested: Box<[u32]>,
    map: Box<[f32]>,
    offset: f32,
    block_size: usize,
    nested_block_size: usize,
    #[cube(comptime)]
    is_nested: bool,
    #[cube(comptime)]
    int8: bool,
}

#[cube]
impl Scales {
    /// What the code of number `index` is multiplied with.
    pub(super) fn of(&self, index: usize) -> f32 {
        let block = index / self.block_size;
        let scale = if comptime!(self.is_nested) {
            let shift = u32::cast_from(block % 4) * 8;
            let code = (self.nested[block / 4] >> shift) & 0xff;
            let outer = self.absmax[block / self.nested_block_size];
            self.map[code as usize] * outer + self.offset
        } else {
            self.absmax[block]
        };
        if comptime!(self.int8) {
            scale / 127.0
        } else {
            scale
        }
    }
}

/// The codebook in memory that all units of a cube share; nothing to see for int8.
#[cube]
pub(super) fn load_table(codebook: &[f32], #[comptime] int8: bool) -> Shared<[f32]> {
    let mut table = Shared::<[f32]>::new_slice(16usize);
    if comptime!(!int8) {
        // Cubes have at least eight units.
        let mut at = UNIT_POS as usize;
        while at < 16 {
            table[at] = codebook[at];
            at += CUBE_DIM as usize;
        }
        sync_cube();
    }
    table
}

/// What code number `place` of a word stands for, before its scale.
///
/// Of the two 4-bit codes in a byte the first has the upper half.
#[cube]
pub(super) fn decode(word: u32, place: u32, table: &Shared<[f32]>, #[comptime] int8: bool) -> f32 {
    if comptime!(int8) {
        let code = (word >> (place * 8)) & 0xff;
        f32::cast_from(code) - 256.0 * f32::cast_from(code >> 7)
    } else {
        let code = (word >> ((place ^ 1) * 4)) & 0xf;
        table[code as usize]
    }
}

/// The nearest bf16, ties to even, as f32.
#[cube]
pub(super) fn round_bf16(x: f32) -> f32 {
    let bits = u32::reinterpret(x);
    let rounded = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
    // Infinities and what is not a number stay.
    let exponent = bits & 0x7f80_0000;
    f32::reinterpret(select(exponent == 0x7f80_0000, bits, rounded))
}
