//! Numbers stored one by one, little-endian.

use half::{bf16, f16};

use super::each_block;

pub(super) fn f32(values: &[f32], out: &mut [u8]) {
    each_block(values, out, |[value], out| *out = value.to_le_bytes());
}

pub(super) fn f16(values: &[f32], out: &mut [u8]) {
    each_block(values, out, |[value], out| {
        *out = f16::from_f32(*value).to_le_bytes();
    });
}

pub(super) fn bf16(values: &[f32], out: &mut [u8]) {
    each_block(values, out, |[value], out| {
        *out = bf16::from_f32(*value).to_le_bytes();
    });
}
