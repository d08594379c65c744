//! NF4: quantiles of the normal distribution.

use std::sync::LazyLock;

use crate::codebook::Codebook;
use crate::linspace::linspace;

/// The probability at which the outermost quantile lies.
///
/// The middle of 31/32 and 29/30, cut to the seven digits that bitsandbytes computes with.
const OFFSET: f32 = 0.967_708_3;

/// The 4-bit NormalFloat codebook.
///
/// Weights of a trained network are close to normally distributed, so that quantiles of the
/// normal distribution use all codes about equally often.
/// Zero must be exact, hence two unequal halves: eight positive and seven negative quantiles at
/// even probabilities between one half and 0.9677083, and a zero between them, all divided by
/// the largest.
///
/// # Source
/// - Dettmers et al. 2023, QLoRA, arXiv:2305.14314, §3 and appendix E
/// - reference: bitsandbytes `functional.py::create_normal_map`, whose rounding is kept: f32
///   probabilities, f64 quantiles, f32 division; golden `fixtures/quant/tables.safetensors`
pub fn nf4_codebook() -> &'static Codebook {
    static NF4: LazyLock<Codebook> = LazyLock::new(|| Codebook::new(values()));
    &NF4
}

fn values() -> [f32; 16] {
    let mut values = [0.0; 16];
    // Both lists descend from the outermost quantile and leave out the zero at their end.
    for (i, x) in quantiles(8).enumerate() {
        values[15 - i] = x;
    }
    for (i, x) in quantiles(7).enumerate() {
        values[i] = -x;
    }
    let largest = values[15];
    values.map(|x| x / largest)
}

/// The quantiles at `count` even probabilities from [`OFFSET`] down towards one half.
fn quantiles(count: u16) -> impl Iterator<Item = f32> {
    #[allow(
        clippy::cast_possible_truncation,
        reason = "rounding is part of the definition"
    )]
    linspace(OFFSET, 0.5, count + 1)
        .into_iter()
        .take(count.into())
        .map(|p| normal_quantile(p.into()) as f32)
}

/// The number below which a standard normal variable lies with probability `p`, `0.5 ≤ p < 0.99`.
///
/// Newton's method on the distribution function, which is concave there: the steps approach from
/// below and never overshoot.
fn normal_quantile(p: f64) -> f64 {
    let mut x = 0.0;
    for _ in 0..40 {
        let step = (p - normal_cdf(x)) / normal_density(x);
        x += step;
        if step.abs() < 1e-15 {
            break;
        }
    }
    x
}

/// `Φ(x) = 1/2 + φ(x)·(x + x³/3 + x⁵/(3·5) + …)`, for small `x`.
fn normal_cdf(x: f64) -> f64 {
    let (mut sum, mut term, mut odd) = (0.0, x, 1.0);
    while sum + term != sum {
        sum += term;
        odd += 2.0;
        term *= x * x / odd;
    }
    0.5 + normal_density(x) * sum
}

fn normal_density(x: f64) -> f64 {
    (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_values_are_the_constants_of_bitsandbytes() {
        let published: [f32; 16] = [
            -1.0,
            -0.696_192_8,
            -0.525_073_05,
            -0.394_917_5,
            -0.284_441_38,
            -0.184_773_43,
            -0.091_050_036,
            0.0,
            0.079_580_3,
            0.160_930_2,
            0.246_112_3,
            0.337_915_24,
            0.440_709_83,
            0.562_617,
            0.722_956_84,
            1.0,
        ];
        for (got, expected) in nf4_codebook().values().iter().zip(published) {
            assert_eq!(got.to_bits(), expected.to_bits(), "{got} is not {expected}");
        }
    }

    #[test]
    fn quantiles_invert_the_distribution() {
        // Tabulated values of the standard normal distribution.
        assert!((normal_cdf(1.0) - 0.841_344_746_068_542_9).abs() < 1e-15);
        assert!((normal_quantile(0.975) - 1.959_963_984_540_054).abs() < 1e-14);
        assert_eq!(normal_quantile(0.5), 0.0);
    }
}
