//! The first generation of ggml's formats: blocks of 32 with one scale.
//!
//! ```text
//! Q4_0  d f16                         qs u8 × 16     x = d · (q − 8)
//! Q4_1  d f16  m f16                  qs u8 × 16     x = d · q + m
//! Q5_0  d f16         qh u32          qs u8 × 16     x = d · (q − 16)
//! Q5_1  d f16  m f16  qh u32          qs u8 × 16     x = d · q + m
//! Q8_0  d f16                         qs i8 × 32     x = d · q
//! ```
//!
//! Byte `i` of `qs` holds element `i` in its low and element `i + 16` in its high four bits;
//! bit `i` of `qh` is the fifth bit of element `i`.

use half::f16;

use super::dequantize::each_block;

/// Elements of a block.
const BLOCK: usize = 32;
/// Half a block: what the low four bits of a block's bytes hold.
const HALF: usize = BLOCK / 2;

pub(super) fn q4_0(bytes: &[u8], out: &mut [f32]) {
    each_block(bytes, out, |block: &[u8; 18], out: &mut [f32; BLOCK]| {
        let (d, qs) = (scale(block, 0), &block[2..]);
        let (low, high) = out.split_at_mut(HALF);
        for ((low, high), q) in low.iter_mut().zip(high).zip(qs) {
            *low = d * f32::from((q & 0x0f).cast_signed() - 8);
            *high = d * f32::from((q >> 4).cast_signed() - 8);
        }
    });
}

pub(super) fn q4_1(bytes: &[u8], out: &mut [f32]) {
    each_block(bytes, out, |block: &[u8; 20], out: &mut [f32; BLOCK]| {
        let (d, m, qs) = (scale(block, 0), scale(block, 2), &block[4..]);
        let (low, high) = out.split_at_mut(HALF);
        for ((low, high), q) in low.iter_mut().zip(high).zip(qs) {
            *low = d * f32::from(q & 0x0f) + m;
            *high = d * f32::from(q >> 4) + m;
        }
    });
}

pub(super) fn q5_0(bytes: &[u8], out: &mut [f32]) {
    each_block(bytes, out, |block: &[u8; 22], out: &mut [f32; BLOCK]| {
        let (d, qh, qs) = (scale(block, 0), fifth_bits(block, 2), &block[6..]);
        let (low, high) = out.split_at_mut(HALF);
        for (i, ((low, high), q)) in low.iter_mut().zip(high).zip(qs).enumerate() {
            *low = d * f32::from(((q & 0x0f) | fifth_bit(qh, i)).cast_signed() - 16);
            *high = d * f32::from(((q >> 4) | fifth_bit(qh, i + HALF)).cast_signed() - 16);
        }
    });
}

pub(super) fn q5_1(bytes: &[u8], out: &mut [f32]) {
    each_block(bytes, out, |block: &[u8; 24], out: &mut [f32; BLOCK]| {
        let (d, m, qh, qs) = (
            scale(block, 0),
            scale(block, 2),
            fifth_bits(block, 4),
            &block[8..],
        );
        let (low, high) = out.split_at_mut(HALF);
        for (i, ((low, high), q)) in low.iter_mut().zip(high).zip(qs).enumerate() {
            *low = d * f32::from((q & 0x0f) | fifth_bit(qh, i)) + m;
            *high = d * f32::from((q >> 4) | fifth_bit(qh, i + HALF)) + m;
        }
    });
}

pub(super) fn q8_0(bytes: &[u8], out: &mut [f32]) {
    each_block(bytes, out, |block: &[u8; 34], out: &mut [f32; BLOCK]| {
        let (d, qs) = (scale(block, 0), &block[2..]);
        for (value, q) in out.iter_mut().zip(qs) {
            *value = f32::from(q.cast_signed()) * d;
        }
    });
}

/// The f16 at byte `at` of a block.
pub(super) fn scale<const N: usize>(block: &[u8; N], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn fifth_bits<const N: usize>(block: &[u8; N], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// Bit `element` of `bits`, in the place of a fifth bit.
fn fifth_bit(bits: u32, element: usize) -> u8 {
    if bits >> element & 1 == 1 { 0x10 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q4_0_by_hand() {
        let mut block = [0x88; 18];
        block[..2].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        block[2] = 0xf0;
        let mut out = [1.0; 32];
        q4_0(&block, &mut out);
        assert_eq!((out[0], out[16]), (-4.0, 3.5));
        assert!(
            out[1..16]
                .iter()
                .chain(&out[17..])
                .all(|&value| value == 0.0)
        );
    }

    #[test]
    fn q5_1_by_hand() {
        let mut block = [0; 24];
        block[..2].copy_from_slice(&f16::from_f32(2.0).to_le_bytes());
        block[2..4].copy_from_slice(&f16::from_f32(-1.0).to_le_bytes());
        block[4..8].copy_from_slice(&(1u32 << 31 | 1 << 1).to_le_bytes());
        block[8 + 15] = 0x30;
        let mut out = [0.0; 32];
        q5_1(&block, &mut out);
        assert_eq!((out[0], out[1], out[31]), (-1.0, 31.0, 37.0));
    }
}
