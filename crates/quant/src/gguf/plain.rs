//! Numbers stored one by one, little-endian.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::dequantize::each_block;

pub(super) fn f32(bytes: &[u8], out: &mut [f32]) {
    each_block(bytes, out, |bytes, [value]| {
        *value = f32::from_le_bytes(*bytes)
    });
}

pub(super) fn f16(bytes: &[u8], out: &mut [f32]) {
    /// Converted at once, so that the processor's own conversion is looked up once.
    const BATCH: usize = 256;
    let (bytes, _) = bytes.as_chunks::<2>();
    for (bytes, out) in bytes.chunks(BATCH).zip(out.chunks_mut(BATCH)) {
        let mut halves = [f16::ZERO; BATCH];
        for (half, bytes) in halves.iter_mut().zip(bytes) {
            *half = f16::from_le_bytes(*bytes);
        }
        halves[..out.len()].convert_to_f32_slice(out);
    }
}

/// The upper half of an f32.
pub(super) fn bf16(bytes: &[u8], out: &mut [f32]) {
    each_block(bytes, out, |bytes, [value]| {
        *value = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
    });
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "rounding to the nearest f32 is the purpose"
)]
pub(super) fn f64(bytes: &[u8], out: &mut [f32]) {
    each_block(bytes, out, |bytes, [value]| {
        *value = f64::from_le_bytes(*bytes) as f32
    });
}

pub(super) fn i8(bytes: &[u8], out: &mut [f32]) {
    each_block(bytes, out, |bytes, [value]| {
        *value = i8::from_le_bytes(*bytes).into()
    });
}

pub(super) fn i16(bytes: &[u8], out: &mut [f32]) {
    each_block(bytes, out, |bytes, [value]| {
        *value = i16::from_le_bytes(*bytes).into()
    });
}

pub(super) fn i32(bytes: &[u8], out: &mut [f32]) {
    each_block(bytes, out, |bytes, [value]| {
        *value = i32::from_le_bytes(*bytes) as f32
    });
}

pub(super) fn i64(bytes: &[u8], out: &mut [f32]) {
    each_block(bytes, out, |bytes, [value]| {
        *value = i64::from_le_bytes(*bytes) as f32
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_beyond_a_batch_convert_too() {
        let bytes: Vec<u8> = (0..600)
            .flat_map(|i| f16::from_f32(i as f32).to_le_bytes())
            .collect();
        let mut out = vec![0.0; 600];
        f16(&bytes, &mut out);
        assert!(out.iter().enumerate().all(|(i, &value)| value == i as f32));
    }

    #[test]
    fn large_integers_round_to_nearest() {
        let mut out = [0.0; 1];
        i32(&(16_777_217_i32).to_le_bytes(), &mut out);
        assert_eq!(out, [16_777_216.0]);
        f64(&1e300_f64.to_le_bytes(), &mut out);
        assert_eq!(out, [f32::INFINITY]);
    }
}
