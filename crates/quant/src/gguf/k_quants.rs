//! The k-quants: super-blocks of 256 whose sub-blocks have quantized scales of their own.
//!
//! ```text
//! Q2_K  scales u8 × 16, qs u8 × 64, d f16, dmin f16           x = (d·sc)·q − (dmin·m)   16 sub-blocks
//! Q3_K  hmask u8 × 32, qs u8 × 64, scales u8 × 12, d f16      x = (d·sc)·q              16
//! Q4_K  d f16, dmin f16, scales u8 × 12, qs u8 × 128          x = (d·sc)·q − (dmin·m)    8
//! Q5_K  d f16, dmin f16, scales u8 × 12, qh u8 × 32, qs u8 × 128   as Q4_K               8
//! Q6_K  ql u8 × 128, qh u8 × 64, scales i8 × 16, d f16        x = (d·sc)·(q − 32)       16
//! ```
//!
//! Elements that share bytes lie 32 apart (64 in the low bits of Q6_K): within a group of 128
//! elements, bits `2s, 2s+1` of byte `i` of a two-bit field belong to element `32·s + i`.

use super::dequantize::each_block;
use super::legacy::scale;

/// Elements of a super-block.
const BLOCK: usize = 256;
/// Elements of a group: those whose two-bit fields share 32 bytes.
const GROUP: usize = 128;
/// Elements between those that share a byte.
const LANES: usize = 32;
/// Elements of a sub-block in the formats with 16 of them.
const SUB: usize = 16;

pub(super) fn q2_k(bytes: &[u8], out: &mut [f32]) {
    each_block(bytes, out, |block: &[u8; 84], out: &mut [f32; BLOCK]| {
        let (scales, qs) = (&block[..16], &block[16..80]);
        let (d, dmin) = (scale(block, 80), scale(block, 82));
        for (sub, out) in out.chunks_exact_mut(SUB).enumerate() {
            let dl = d * f32::from(scales[sub] & 0x0f);
            let ml = dmin * f32::from(scales[sub] >> 4);
            let (from, shift) = two_bit_field(sub);
            for (value, q) in out.iter_mut().zip(&qs[from..from + SUB]) {
                *value = dl * f32::from(q >> shift & 3) - ml;
            }
        }
    });
}

pub(super) fn q3_k(bytes: &[u8], out: &mut [f32]) {
    each_block(bytes, out, |block: &[u8; 110], out: &mut [f32; BLOCK]| {
        let (hmask, qs) = (&block[..32], &block[32..96]);
        let scales = q3_k_scales(&block[96..108]);
        let d = scale(block, 108);
        for (sub, out) in out.chunks_exact_mut(SUB).enumerate() {
            let dl = d * f32::from(scales[sub]);
            let (from, shift) = two_bit_field(sub);
            // The third bit of sub-blocks 2b and 2b+1 is bit b of the mask's two halves.
            let (mask_from, bit) = (sub % 2 * SUB, sub / 2);
            let fields = qs[from..from + SUB]
                .iter()
                .zip(&hmask[mask_from..mask_from + SUB]);
            for (value, (q, mask)) in out.iter_mut().zip(fields) {
                // A bit that is not set subtracts four.
                let below = (!(mask >> bit) & 1) << 2;
                *value = dl * f32::from((q >> shift & 3).cast_signed() - below.cast_signed());
            }
        }
    });
}

pub(super) fn q4_k(bytes: &[u8], out: &mut [f32]) {
    each_block(bytes, out, |block: &[u8; 144], out: &mut [f32; BLOCK]| {
        let (d, dmin) = (scale(block, 0), scale(block, 2));
        let (scales, mins) = six_bit_pairs(&block[4..16]);
        let qs = &block[16..];
        for (sub, out) in out.chunks_exact_mut(LANES).enumerate() {
            let (dl, ml) = (d * f32::from(scales[sub]), dmin * f32::from(mins[sub]));
            let (from, shift) = (sub / 2 * LANES, sub % 2 * 4);
            for (value, q) in out.iter_mut().zip(&qs[from..from + LANES]) {
                *value = dl * f32::from(q >> shift & 0x0f) - ml;
            }
        }
    });
}

pub(super) fn q5_k(bytes: &[u8], out: &mut [f32]) {
    each_block(bytes, out, |block: &[u8; 176], out: &mut [f32; BLOCK]| {
        let (d, dmin) = (scale(block, 0), scale(block, 2));
        let (scales, mins) = six_bit_pairs(&block[4..16]);
        let (qh, qs) = (&block[16..48], &block[48..]);
        for (sub, out) in out.chunks_exact_mut(LANES).enumerate() {
            let (dl, ml) = (d * f32::from(scales[sub]), dmin * f32::from(mins[sub]));
            let (from, shift) = (sub / 2 * LANES, sub % 2 * 4);
            let fields = qs[from..from + LANES].iter().zip(qh);
            for (value, (q, high)) in out.iter_mut().zip(fields) {
                *value = dl * f32::from((q >> shift & 0x0f) | (high >> sub & 1) << 4) - ml;
            }
        }
    });
}

pub(super) fn q6_k(bytes: &[u8], out: &mut [f32]) {
    each_block(bytes, out, |block: &[u8; 210], out: &mut [f32; BLOCK]| {
        let (ql, qh, scales) = (&block[..128], &block[128..192], &block[192..208]);
        let d = scale(block, 208);
        for (sub, out) in out.chunks_exact_mut(SUB).enumerate() {
            let dl = d * f32::from(scales[sub].cast_signed());
            let (group, within) = (sub * SUB / GROUP, sub * SUB % GROUP);
            let (low_from, low_shift) = (group * 64 + within % 64, within / 64 * 4);
            let (high_from, high_shift) = two_bit_field(sub);
            let fields = ql[low_from..low_from + SUB]
                .iter()
                .zip(&qh[high_from..high_from + SUB]);
            for (value, (low, high)) in out.iter_mut().zip(fields) {
                let q = (low >> low_shift & 0x0f) | (high >> high_shift & 3) << 4;
                *value = dl * f32::from(q.cast_signed() - 32);
            }
        }
    });
}

/// First byte and shift of the two-bit field of a sub-block of 16.
fn two_bit_field(sub: usize) -> (usize, usize) {
    let (group, within) = (sub * SUB / GROUP, sub * SUB % GROUP);
    (group * LANES + within % LANES, within / LANES * 2)
}

/// The sixteen signed scales of Q3_K: four low bits in the first eight bytes, two high bits in the
/// last four.
fn q3_k_scales(packed: &[u8]) -> [i8; 16] {
    std::array::from_fn(|sub| {
        let low = packed[sub % 8] >> (sub / 8 * 4) & 0x0f;
        let high = packed[8 + sub % 4] >> (sub / 4 * 2) & 3;
        (low | high << 4).cast_signed() - 32
    })
}

/// The eight six-bit scales and minima of Q4_K and Q5_K.
///
/// ```text
/// bytes 0–3   EEAAAAAA …  scales 0–3, and the upper two bits of scales 4–7
/// bytes 4–7   eeaaaaaa …  minima 0–3, and the upper two bits of minima 4–7
/// bytes 8–11  eeeeEEEE …  the lower four bits of scales 4–7 and of minima 4–7
/// ```
fn six_bit_pairs(packed: &[u8]) -> ([u8; 8], [u8; 8]) {
    let mut scales = [0; 8];
    let mut mins = [0; 8];
    for i in 0..4 {
        let (scale, min, rest) = (packed[i], packed[i + 4], packed[i + 8]);
        scales[i] = scale & 0x3f;
        mins[i] = min & 0x3f;
        scales[i + 4] = (rest & 0x0f) | (scale >> 2 & 0x30);
        mins[i + 4] = (rest >> 4) | (min >> 2 & 0x30);
    }
    (scales, mins)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn six_bit_pairs_by_hand() {
        let mut packed = [0; 12];
        packed[1] = 0b10_000101; // scale 1 = 5, scale 5 = 0b10….
        packed[5] = 0b01_111111; // minimum 1 = 63, minimum 5 = 0b01….
        packed[9] = 0b1001_0011; // minimum 5 = ….1001, scale 5 = ….0011
        let (scales, mins) = six_bit_pairs(&packed);
        assert_eq!(scales, [0, 5, 0, 0, 0, 0b10_0011, 0, 0]);
        assert_eq!(mins, [0, 63, 0, 0, 0, 0b01_1001, 0, 0]);
    }

    #[test]
    fn two_bit_fields_cover_every_pair_of_bits_once() {
        let mut seen = [0u8; 64];
        for sub in 0..16 {
            let (from, shift) = two_bit_field(sub);
            for byte in &mut seen[from..from + SUB] {
                assert_eq!(*byte >> shift & 3, 0);
                *byte |= 3 << shift;
            }
        }
        assert!(seen.iter().all(|&byte| byte == 0xff));
    }
}
