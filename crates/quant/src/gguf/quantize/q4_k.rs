//! Q4_K: super-blocks of 256, eight scales and minima of six bits.

use half::f16;

use super::each_block;

const BLOCK: usize = 256;
/// Elements of a sub-block.
const SUB: usize = 32;
const SUBS: usize = BLOCK / SUB;
/// The largest code of a number, and of a scale or minimum.
const CODES: f32 = 15.0;
const SCALES: f32 = 63.0;
/// Scales that are tried for a sub-block: `(15 + −1 + 0.1·step) / range`.
const STEPS: u8 = 20;

pub(super) fn q4_k(values: &[f32], out: &mut [u8]) {
    each_block(values, out, |x: &[f32; BLOCK], out: &mut [u8; 144]| {
        let (x, _) = x.as_chunks::<SUB>();
        let fits: [Fit; SUBS] = std::array::from_fn(|sub| Fit::of(&x[sub]));
        let most = |of: fn(&Fit) -> f32| fits.iter().map(of).fold(0.0, larger);
        let (scale, min) = (most(|fit| fit.scale), most(|fit| fit.min));
        let (d, dmin) = (f16::from_f32(scale / SCALES), f16::from_f32(min / SCALES));
        out[..2].copy_from_slice(&d.to_le_bytes());
        out[2..4].copy_from_slice(&dmin.to_le_bytes());
        let scales = fits.map(|fit| six_bits(fit.scale, scale));
        let mins = fits.map(|fit| six_bits(fit.min, min));
        pack_pairs(&scales, &mins, &mut out[4..16]);
        let codes: [[u8; SUB]; SUBS] = std::array::from_fn(|sub| {
            let d = d.to_f32() * f32::from(scales[sub]);
            let min = dmin.to_f32() * f32::from(mins[sub]);
            // Without a scale the codes do not count; the fit's are as good as any.
            if d == 0.0 {
                fits[sub].codes
            } else {
                x[sub].map(|x| nearest((x + min) / d, CODES))
            }
        });
        for (pair, out) in codes.chunks_exact(2).zip(out[16..].chunks_exact_mut(SUB)) {
            for ((low, high), out) in pair[0].iter().zip(&pair[1]).zip(out) {
                *out = low | high << 4;
            }
        }
    });
}

/// `x ≈ scale·code − min`, both not negative.
#[derive(Clone, Copy)]
struct Fit {
    scale: f32,
    min: f32,
    codes: [u8; SUB],
}

/// Sums weighted by `w`: of `w`, `w·x`.
struct Weighted<'a> {
    x: &'a [f32; SUB],
    w: [f32; SUB],
    sum_w: f32,
    sum_x: f32,
}

impl Fit {
    /// The fit of the least weighted squared error, with the weights `rms(x) + |xᵢ|`.
    fn of(x: &[f32; SUB]) -> Self {
        let rms = (x.iter().map(|x| x * x).sum::<f32>() / 32.0).sqrt();
        let w = x.map(|x| rms + x.abs());
        let data = Weighted {
            x,
            w,
            sum_w: w.iter().sum(),
            sum_x: x.iter().zip(&w).map(|(x, w)| w * x).sum(),
        };
        let low = x.iter().copied().fold(x[0], f32::min).min(0.0);
        let high = x.iter().copied().fold(x[0], f32::max);
        if high == low {
            return Self {
                scale: 0.0,
                min: -low,
                codes: [0; SUB],
            };
        }
        let inverse = CODES / (high - low);
        let codes = x.map(|x| nearest(inverse * (x - low), CODES));
        let mut best = Self {
            scale: 1.0 / inverse,
            min: -low,
            codes,
        };
        let mut least = data.error(&best);
        for step in 0..=STEPS {
            // The range is that from the minimum found so far.
            let inverse = (-1.0 + 0.1 * f32::from(step) + CODES) / (high + best.min);
            let codes = x.map(|x| nearest(inverse * (x + best.min), CODES));
            let Some(fit) = data.least_squares(codes) else {
                continue;
            };
            let error = data.error(&fit);
            if error < least {
                (least, best) = (error, fit);
            }
        }
        best
    }
}

impl Weighted<'_> {
    fn error(&self, fit: &Fit) -> f32 {
        let each = self.x.iter().zip(&self.w).zip(&fit.codes);
        each.map(|((x, w), &code)| {
            let off = fit.scale * f32::from(code) - fit.min - x;
            w * (off * off)
        })
        .sum()
    }

    /// The best scale and minimum for these codes; `None` when all codes are the same.
    fn least_squares(&self, codes: [u8; SUB]) -> Option<Fit> {
        let (mut sum_l, mut sum_l2, mut sum_xl) = (0.0, 0.0, 0.0);
        for ((x, w), &code) in self.x.iter().zip(&self.w).zip(&codes) {
            let l = f32::from(code);
            sum_l += w * l;
            sum_l2 += w * l * l;
            sum_xl += w * l * x;
        }
        let determinant = self.sum_w * sum_l2 - sum_l * sum_l;
        if determinant <= 0.0 {
            return None;
        }
        let scale = (self.sum_w * sum_xl - self.sum_x * sum_l) / determinant;
        let low = (sum_l2 * self.sum_x - sum_l * sum_xl) / determinant;
        let (scale, low) = if low > 0.0 {
            (sum_xl / sum_l2, 0.0)
        } else {
            (scale, low)
        };
        Some(Fit {
            scale,
            min: -low,
            codes,
        })
    }
}

/// As the reference compares, for which a zero with a sign is not larger.
fn larger(most: f32, x: f32) -> f32 {
    if x > most { x } else { most }
}

/// The six-bit code of `value` where `most` is the largest of its kind.
fn six_bits(value: f32, most: f32) -> u8 {
    let inverse = if most > 0.0 { SCALES / most } else { 0.0 };
    nearest(inverse * value, SCALES)
}

/// The nearest integer from 0 to `most`, halves to even.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to the range of a code"
)]
fn nearest(x: f32, most: f32) -> u8 {
    x.round_ties_even().clamp(0.0, most) as u8
}

/// The layout that `six_bit_pairs` of `k_quants` reads.
fn pack_pairs(scales: &[u8; SUBS], mins: &[u8; SUBS], out: &mut [u8]) {
    for i in 0..4 {
        out[i] = scales[i] | (scales[i + 4] >> 4) << 6;
        out[i + 4] = mins[i] | (mins[i + 4] >> 4) << 6;
        out[i + 8] = (scales[i + 4] & 0x0f) | (mins[i + 4] & 0x0f) << 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{GgmlType, dequantize_into};

    fn there_and_back(x: &[f32]) -> Vec<f32> {
        let mut bytes = vec![0; x.len() / BLOCK * 144];
        q4_k(x, &mut bytes);
        let mut back = vec![0.0; x.len()];
        dequantize_into(GgmlType::Q4_K, &bytes, &mut back).unwrap();
        back
    }

    #[test]
    fn numbers_on_the_grid_come_back() {
        // Every sub-block spans 0 … 15·s − m with s = 2·(sub + 1)/63 steps of the largest scale.
        let x: Vec<f32> = (0..BLOCK)
            .map(|i| {
                let (sub, code) = (i / SUB, i % SUB % 16);
                63.0 / 64.0 * ((sub + 1) as f32 * code as f32 - 8.0)
            })
            .collect();
        let back = there_and_back(&x);
        // Scales and minima are rounded to six bits: half a 63rd of the largest scale (7.875), at
        // codes up to 15, and of the minimum; and to f16.
        let bound = 7.875 / 126.0 * 15.0 + 7.875 / 126.0 + 0.5;
        for (x, back) in x.iter().zip(&back) {
            assert!((x - back).abs() <= bound, "{x} {back}");
        }
    }

    #[test]
    fn the_error_is_half_a_step_of_the_largest_sub_block() {
        let x: Vec<f32> = (0..BLOCK * 3)
            .map(|i| ((i * 7919 % 1009) as f32 / 1009.0 - 0.4) * (1.0 + (i / SUB) as f32 * 0.1))
            .collect();
        let back = there_and_back(&x);
        for (x, back) in x.chunks(BLOCK).zip(back.chunks(BLOCK)) {
            let range =
                x.iter().fold(0f32, |a, b| a.max(*b)) - x.iter().fold(0f32, |a, b| a.min(*b));
            // Half a step for the code, a whole one for six-bit scales times 15 and the minimum.
            let bound = range / 15.0 * (0.5 + 15.0 / 126.0 + 0.5);
            for (x, back) in x.iter().zip(back) {
                assert!((x - back).abs() <= bound, "{x} {back} {bound}");
            }
        }
    }

    #[test]
    fn constants_and_zeros_have_no_scale() {
        assert!(there_and_back(&[0.0; BLOCK]).iter().all(|&x| x == 0.0));
        for x in there_and_back(&[-2.0; BLOCK]) {
            assert!((x + 2.0).abs() < 2e-3, "{x}");
        }
        for x in there_and_back(&[3.0; BLOCK]) {
            assert!((x - 3.0).abs() < 3e-3, "{x}");
        }
    }
}
