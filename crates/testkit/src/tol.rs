//! How far two computations of the same thing may lie apart, and why.
//!
//! All bounds derive from one estimate.
//! A number in a format with `p` significant bits is off by at most the unit roundoff `u = 2^-p`
//! (relative), and `n` independent roundings add up like a random walk to `√n · u`.
//! Four times that leaves room for the tails; an implementation error is larger by orders of
//! magnitude, since the fixtures' weights make no term vanish.

use burn::tensor::DType;

/// An allowed deviation: `|got - expected| <= abs + rel · |expected|`.
///
/// A relative part alone fails where terms cancel and the expected value is near zero; the
/// absolute part stands for the size of the terms that went in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    /// Allowed deviation as a fraction of the expected magnitude.
    pub rel: f64,
    /// Allowed deviation whatever the expected value.
    pub abs: f64,
}

impl Tolerance {
    /// A tolerance from its relative and its absolute part.
    pub const fn rel_abs(rel: f64, abs: f64) -> Self {
        Self { rel, abs }
    }

    /// No deviation at all.
    pub const fn exact() -> Self {
        Self::rel_abs(0.0, 0.0)
    }

    /// The same tolerance for values whose terms are `magnitude` in size rather than one.
    #[must_use]
    pub const fn of_magnitude(self, magnitude: f64) -> Self {
        Self::rel_abs(self.rel, self.abs * magnitude)
    }

    /// The deviation allowed around an expected value.
    pub fn allowed(self, expected: f64) -> f64 {
        self.abs + self.rel * expected.abs()
    }

    /// Whether two values agree. Infinities agree only with themselves, NaN with NaN.
    pub fn accepts(self, got: f64, expected: f64) -> bool {
        got == expected
            || got.is_nan() && expected.is_nan()
            || (got - expected).abs() <= self.allowed(expected) && expected.is_finite()
    }
}

/// The unit roundoff `2^-p` of a floating-point type.
fn unit_roundoff(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 2_f64.powi(-53),
        DType::F32 => 2_f64.powi(-24),
        DType::F16 => 2_f64.powi(-11),
        DType::BF16 => 2_f64.powi(-8),
        other => panic!("{other:?} has no unit roundoff"),
    }
}

/// Tolerance for values of order one after `count` roundings in a row: `4 · √count · u`.
pub fn roundings(dtype: DType, count: u32) -> Tolerance {
    let deviation = 4.0 * f64::from(count).sqrt() * unit_roundoff(dtype);
    Tolerance::rel_abs(deviation, deviation)
}

/// A whole tiny model computed in f32.
///
/// Two layers are about 20 operations one after the other, each a sum of up to 256 terms whose
/// order is free: `4 · √(20 · 256) · 2^-24 = 1.7e-5`.
pub fn f32() -> Tolerance {
    roundings(DType::F32, 20 * 256)
}

/// A whole tiny model with activations in bf16 and sums in f32.
///
/// Only the result of each of the 20 operations is rounded: `4 · √20 · 2^-8 = 7.0e-2`.
pub fn bf16() -> Tolerance {
    roundings(DType::BF16, 20)
}

/// A whole tiny model with activations in f16 and sums in f32: `4 · √20 · 2^-11 = 8.7e-3`.
pub fn f16() -> Tolerance {
    roundings(DType::F16, 20)
}

/// One operation in f32 that sums `terms` terms of order one: `4 · √terms · 2^-24`.
pub fn f32_sum(terms: u32) -> Tolerance {
    roundings(DType::F32, terms)
}

/// Central differences with step `eps`, of a smooth function of order one computed in f32.
///
/// The truncated series leaves `eps² · |f'''| / 6`, the two subtracted values leave
/// `√n · 2^-24 / eps` for about 256 roundings within each.
/// The sum is smallest near `eps = 1e-2`, about 1e-3.
pub fn central_differences(eps: f64) -> Tolerance {
    let truncation = eps * eps;
    let cancellation = 16.0 * unit_roundoff(DType::F32) / eps;
    let deviation = 4.0 * (truncation + cancellation);
    Tolerance::rel_abs(deviation, deviation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_and_absolute_parts_add_up() {
        let tolerance = Tolerance::rel_abs(0.1, 0.5);
        assert_eq!(tolerance.allowed(-10.0), 1.5);
        assert!(tolerance.accepts(-11.5, -10.0));
        assert!(!tolerance.accepts(-11.6, -10.0));
        assert_eq!(tolerance.of_magnitude(4.0).allowed(0.0), 2.0);
    }

    #[test]
    fn what_is_not_finite_agrees_only_with_itself() {
        let loose = Tolerance::rel_abs(1.0, 1.0);
        assert!(loose.accepts(f64::INFINITY, f64::INFINITY));
        assert!(loose.accepts(f64::NAN, f64::NAN));
        assert!(!loose.accepts(f64::INFINITY, f64::NEG_INFINITY));
        assert!(!loose.accepts(1e30, f64::INFINITY));
        assert!(!loose.accepts(f64::NAN, 1.0));
        assert!(!loose.accepts(1.0, f64::NAN));
    }

    #[test]
    fn bounds_have_the_derived_sizes() {
        assert!((f32().abs - 1.706e-5).abs() < 1e-8);
        assert!((bf16().abs - 6.99e-2).abs() < 1e-4);
        assert!((f16().abs - 8.73e-3).abs() < 1e-5);
        assert!((central_differences(1e-2).abs - 7.8e-4).abs() < 1e-5);
    }
}
