//! How something grows with something else.

/// The slope of the line through the logarithms of `(size, value)` by least squares: `p` where
/// values are `c·sizeᵖ`.
///
/// `None` with fewer than two sizes, or where a size or a value is not positive.
pub fn exponent(points: &[[f64; 2]]) -> Option<f64> {
    let logarithms: Vec<[f64; 2]> = points.iter().map(|point| point.map(f64::ln)).collect();
    let all_finite = logarithms.iter().flatten().all(|number| number.is_finite());
    if !all_finite || points.len() < 2 {
        return None;
    }
    #[allow(clippy::cast_precision_loss, reason = "a handful of points")]
    let count = points.len() as f64;
    let mean = |axis: usize| logarithms.iter().map(|point| point[axis]).sum::<f64>() / count;
    let [x, y] = [mean(0), mean(1)];
    let spread: f64 = logarithms.iter().map(|point| (point[0] - x).powi(2)).sum();
    let joint: f64 = logarithms
        .iter()
        .map(|point| (point[0] - x) * (point[1] - y))
        .sum();
    (spread > 0.0).then(|| joint / spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_have_their_exponents() {
        let points = |power: f64| [1.0, 2.0, 4.0, 8.0_f64].map(|x| [x, 3.0 * x.powf(power)]);
        for power in [0.0, 1.0, 2.0] {
            let found = exponent(&points(power)).unwrap();
            assert!((found - power).abs() < 1e-12, "{found} of {power}");
        }
    }

    #[test]
    fn what_has_no_logarithm_has_no_exponent() {
        assert_eq!(exponent(&[[1.0, 2.0]]), None);
        assert_eq!(exponent(&[[1.0, 2.0], [2.0, 0.0]]), None);
        assert_eq!(exponent(&[[1.0, 2.0], [1.0, 3.0]]), None);
    }
}
