//! Elementary functions on vectors.

use super::Simd;

/// `eˣ` within 2 ulp of the exact value; below `-87.3` zero, above `88.72` infinity, NaN stays.
///
/// Reduction to `eˣ = 2ⁿ·eʳ` with `|r| ≤ ln 2 / 2` and the polynomial of Cephes' `expf`.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    let lowest = s.splat(-87.336_54);
    let clamped = s.min(s.splat(88.8), s.max(lowest, x));
    let n = s.round(s.mul(clamped, s.splat(std::f32::consts::LOG2_E)));
    let r = s.mul_add(n, s.splat(-0.693_359_4), clamped);
    let r = s.mul_add(n, s.splat(2.121_944_4e-4), r);
    let mut p = s.splat(1.987_569_1e-4);
    for c in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ] {
        p = s.mul_add(p, r, s.splat(c));
    }
    let p = s.add(s.mul_add(s.mul(p, r), r, r), s.splat(1.0));
    let y = s.scale_by_power(p, n);
    s.select_lt(x, lowest, s.splat(0.0), y)
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.splat(0.0), x))))
}

/// `tanh x` within 3 ulp: a polynomial (Cephes' `tanhf`) below 0.625, `1 − 2/(e²ˣ + 1)` above.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::V) -> S::V {
    let magnitude = s.max(x, s.sub(s.splat(0.0), x));
    let square = s.mul(x, x);
    let mut p = s.splat(-5.704_988_7e-3);
    for c in [2.063_909e-2, -5.373_971_5e-2, 1.333_144_2e-1, -0.333_332_8] {
        p = s.mul_add(p, square, s.splat(c));
    }
    let small = s.mul_add(s.mul(p, square), x, x);
    let doubled = exp(s, s.add(x, x));
    let one = s.splat(1.0);
    let large = s.sub(one, s.div(s.splat(2.0), s.add(doubled, one)));
    s.select_lt(magnitude, s.splat(0.625), small, large)
}

#[cfg(test)]
#[allow(unsafe_code, reason = "tests drive the raw loads and stores")]
mod tests {
    use super::super::{Kernel, tests::on_each};
    use super::*;

    #[derive(Clone, Copy)]
    enum Function {
        Exp,
        Tanh,
        Sigmoid,
    }

    #[derive(Clone)]
    struct Map<'a>(Function, &'a [f32]);

    impl Kernel for Map<'_> {
        type Output = Vec<f32>;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Vec<f32> {
            let mut out = vec![0.0; self.1.len()];
            for (x, y) in self
                .1
                .chunks_exact(S::LANES)
                .zip(out.chunks_exact_mut(S::LANES))
            {
                // SAFETY: both chunks have `LANES` values.
                unsafe {
                    let v = s.load(x.as_ptr());
                    let v = match self.0 {
                        Function::Exp => exp(s, v),
                        Function::Tanh => tanh(s, v),
                        Function::Sigmoid => sigmoid(s, v),
                    };
                    s.store(v, y.as_mut_ptr());
                }
            }
            out
        }
    }

    fn ulps(got: f32, exact: f64) -> f64 {
        #[allow(clippy::cast_possible_truncation, reason = "rounded to f32")]
        let near = (exact as f32).abs().max(f32::MIN_POSITIVE);
        let step = f64::from(f32::from_bits(near.to_bits() + 1)) - f64::from(near);
        (f64::from(got) - exact).abs() / step
    }

    fn grid(low: f32, high: f32) -> Vec<f32> {
        let n = 1 << 16;
        (0..n)
            .map(|i| low + (high - low) * i as f32 / n as f32)
            .collect()
    }

    fn worst(function: Function, xs: &[f32], exact: fn(f64) -> f64) -> f64 {
        let mut worst = 0f64;
        for (set, ys) in on_each(Map(function, xs)) {
            for (&x, &y) in xs.iter().zip(&ys) {
                let error = ulps(y, exact(f64::from(x)));
                assert!(error <= 4.0, "{set}: f({x}) = {y}, {error} ulp");
                worst = worst.max(error);
            }
        }
        worst
    }

    #[test]
    fn exp_is_within_two_ulp() {
        assert!(worst(Function::Exp, &grid(-87.3, 88.7), f64::exp) <= 2.0);
        assert!(worst(Function::Exp, &grid(-1.0, 1.0), f64::exp) <= 2.0);
    }

    #[test]
    fn exp_of_special_values() {
        let xs: Vec<f32> = [
            f32::NEG_INFINITY,
            -200.0,
            0.0,
            f32::INFINITY,
            89.0,
            f32::NAN,
            1.0,
            -0.0,
        ]
        .into_iter()
        .cycle()
        .take(16)
        .collect();
        for (set, ys) in on_each(Map(Function::Exp, &xs)) {
            assert_eq!(
                ys[..5],
                [0.0, 0.0, 1.0, f32::INFINITY, f32::INFINITY],
                "{set}"
            );
            assert!(ys[5].is_nan(), "{set}");
            assert_eq!(ys[7], 1.0, "{set}");
        }
    }

    #[test]
    fn tanh_and_sigmoid_follow_the_exact_functions() {
        assert!(worst(Function::Tanh, &grid(-9.0, 9.0), f64::tanh) <= 3.0);
        assert!(worst(Function::Tanh, &grid(-1e-3, 1e-3), f64::tanh) <= 3.0);
        assert!(
            worst(Function::Sigmoid, &grid(-80.0, 80.0), |x| 1.0
                / (1.0 + (-x).exp()))
                <= 4.0
        );
    }
}
