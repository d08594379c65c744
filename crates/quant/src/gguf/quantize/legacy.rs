//! Blocks of 32 with one scale; their layout is told in `legacy` beside this folder.
//!
//! In all of them `d` is computed in f32, the codes with that `d`, and only then `d` is rounded to
//! f16, as the reference does.

use half::f16;

use super::each_block;

const BLOCK: usize = 32;
const HALF: usize = BLOCK / 2;

/// `d = x_max / −8`, where `x_max` is the number of the largest magnitude: it gets the code 0.
pub(super) fn q4_0(values: &[f32], out: &mut [u8]) {
    each_block(values, out, |x: &[f32; BLOCK], out: &mut [u8; 18]| {
        let d = extreme(x) / -8.0;
        out[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
        let inverse = inverse(d);
        for i in 0..HALF {
            let code = |x: f32| truncated(x * inverse + 8.5, 15);
            out[2 + i] = code(x[i]) | code(x[i + HALF]) << 4;
        }
    });
}

/// As Q4_0 with 32 codes, the fifth bits in `qh`.
pub(super) fn q5_0(values: &[f32], out: &mut [u8]) {
    each_block(values, out, |x: &[f32; BLOCK], out: &mut [u8; 22]| {
        let d = extreme(x) / -16.0;
        out[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
        let inverse = inverse(d);
        let code = |x: f32| truncated(x * inverse + 16.5, 31);
        let mut fifth_bits = 0u32;
        for i in 0..HALF {
            let (low, high) = (code(x[i]), code(x[i + HALF]));
            out[6 + i] = (low & 0x0f) | (high & 0x0f) << 4;
            fifth_bits |= u32::from(low >> 4) << i | u32::from(high >> 4) << (i + HALF);
        }
        out[2..6].copy_from_slice(&fifth_bits.to_le_bytes());
    });
}

/// `d = max|x| / 127`, codes rounded to the nearest, halves away from zero.
pub(super) fn q8_0(values: &[f32], out: &mut [u8]) {
    each_block(values, out, |x: &[f32; BLOCK], out: &mut [u8; 34]| {
        let d = x.iter().fold(0f32, |most, x| most.max(x.abs())) / 127.0;
        out[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
        let inverse = inverse(d);
        for (out, x) in out[2..].iter_mut().zip(x) {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "within ±127 by the choice of d, and saturating"
            )]
            let code = half_away(x * inverse) as i8;
            *out = code.cast_unsigned();
        }
    });
}

/// The first number of the largest magnitude.
fn extreme(x: &[f32; BLOCK]) -> f32 {
    let further = |best: f32, &x: &f32| if x.abs() > best.abs() { x } else { best };
    x.iter().fold(x[0], further)
}

fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "dropping the fraction is the rule, and the cast saturates"
)]
fn truncated(x: f32, most: u8) -> u8 {
    (x as u8).min(most)
}

/// As `np_roundf` of the reference computes it, which differs from `f32::round` just below a half.
fn half_away(x: f32) -> f32 {
    let magnitude = x.abs();
    let floor = magnitude.floor();
    (floor + (2.0 * (magnitude - floor)).floor()) * if x < 0.0 { -1.0 } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q4_0_by_hand() {
        let mut x = [0.0; BLOCK];
        (x[0], x[1], x[16]) = (-4.0, 3.5, 1.2);
        let mut out = [0; 18];
        q4_0(&x, &mut out);
        // d = 0.5: −4 is code 0, 3.5 code 15, 1.2 code ⌊10.9⌋ = 10, zero code 8.
        assert_eq!(&out[..2], &f16::from_f32(0.5).to_le_bytes());
        assert_eq!((out[2], out[3], out[4]), (0xa0, 0x8f, 0x88));
    }

    #[test]
    fn q8_0_by_hand() {
        let mut x = [0.0; BLOCK];
        (x[0], x[1], x[2], x[31]) = (254.0, -3.0, 2.9, -254.0);
        let mut out = [0; 34];
        q8_0(&x, &mut out);
        assert_eq!(&out[..2], &f16::from_f32(2.0).to_le_bytes());
        assert_eq!((out[2], out[3], out[4], out[33]), (127, 254, 1, 129));
    }

    #[test]
    fn zeros_stay_zeros() {
        let mut out = [9; 34];
        q8_0(&[0.0; BLOCK], &mut out);
        assert_eq!(out, [0; 34]);
    }
}
