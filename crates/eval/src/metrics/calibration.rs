//! Whether probabilities mean what they say.

/// Examples whose confidence falls into one range.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CalibrationBin {
    /// Lower end of the range, not part of it (but 0 is part of the first).
    pub from: f64,
    /// Upper end, part of the range.
    pub to: f64,
    /// Examples in it.
    pub count: usize,
    /// Their mean confidence, 0 of none.
    pub confidence: f64,
    /// The share of them that is right, 0 of none.
    pub accuracy: f64,
}

/// Confidence against accuracy.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibration {
    /// Ranges of equal width over `[0, 1]`, for a reliability diagram.
    pub bins: Vec<CalibrationBin>,
    /// Expected calibration error: `Σ countᵢ/n · |accuracyᵢ − confidenceᵢ|`.
    pub expected_error: f64,
    /// The largest `|accuracyᵢ − confidenceᵢ|` of a range that has examples.
    pub maximum_error: f64,
}

/// Sorts examples into `bins` ranges by confidence; values outside `[0, 1]` go to the ends.
///
/// # Source
/// Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv:1706.04599, eqs. (1) to (5)
///
/// # Examples
/// ```
/// use flametune_eval::metrics::calibration;
///
/// // Two answers at 0.8, one of them right; two at 0.3, none right.
/// let c = calibration(&[0.8, 0.8, 0.3, 0.3], &[true, false, false, false], 10);
/// assert!((c.expected_error - 0.3).abs() < 1e-12);
/// ```
#[must_use]
pub fn calibration(confidence: &[f64], correct: &[bool], bins: usize) -> Calibration {
    let n_bins = bins.max(1);
    let width = 1.0 / n_bins as f64;
    let mut bins: Vec<CalibrationBin> = (0..n_bins)
        .map(|bin| CalibrationBin {
            from: bin as f64 * width,
            to: (bin + 1) as f64 * width,
            ..CalibrationBin::default()
        })
        .collect();
    for (&confidence, &correct) in confidence.iter().zip(correct) {
        let place = bins
            .iter()
            .position(|bin| confidence <= bin.to)
            .unwrap_or(n_bins - 1);
        let bin = &mut bins[place];
        bin.count += 1;
        bin.confidence += confidence;
        bin.accuracy += f64::from(u8::from(correct));
    }
    let total: usize = bins.iter().map(|bin| bin.count).sum();
    let (mut expected_error, mut maximum_error) = (0.0, 0.0_f64);
    for bin in bins.iter_mut().filter(|bin| bin.count > 0) {
        bin.confidence /= bin.count as f64;
        bin.accuracy /= bin.count as f64;
        let gap = (bin.accuracy - bin.confidence).abs();
        expected_error += bin.count as f64 / total as f64 * gap;
        maximum_error = maximum_error.max(gap);
    }
    Calibration {
        bins,
        expected_error,
        maximum_error,
    }
}

/// Mean of `Σ_k (p_k − [k is the class])²` over examples.
///
/// `None` for no examples, or a class outside the probabilities of its example.
#[must_use]
pub fn brier_score(classes: &[usize], probabilities: &[Vec<f64>]) -> Option<f64> {
    if classes.is_empty() || classes.len() != probabilities.len() {
        return None;
    }
    let mut sum = 0.0;
    for (&class, row) in classes.iter().zip(probabilities) {
        row.get(class)?;
        sum += row
            .iter()
            .enumerate()
            .map(|(at, p)| (p - f64::from(u8::from(at == class))).powi(2))
            .sum::<f64>();
    }
    Some(sum / classes.len() as f64)
}
