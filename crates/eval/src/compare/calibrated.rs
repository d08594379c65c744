//! Whether a model's confidence in its choices means something.

use crate::harness::TaskResult;
use crate::metrics::{Calibration, calibration};

/// Calibration of a multiple-choice task: the confidence is the share of probability on the choice taken.
///
/// `None` for other tasks, and for those with several right answers.
#[must_use]
pub fn task_calibration(task: &TaskResult, bins: usize) -> Option<Calibration> {
    let filter = task.samples.first()?.filter.as_str();
    let (mut confidence, mut correct) = (Vec::new(), Vec::new());
    for sample in task.samples.iter().filter(|sample| sample.filter == filter) {
        let values: Vec<f64> = sample
            .responses
            .iter()
            .map(|response| response.as_array()?.first()?.as_f64())
            .collect::<Option<_>>()?;
        let right = sample
            .scores
            .iter()
            .find(|(name, _)| name == "acc")?
            .1
            .comparable()?;
        if values.len() < 2 || (right != 0.0 && right != 1.0) {
            return None;
        }
        let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = values.iter().map(|value| (value - most).exp()).sum();
        confidence.push(1.0 / total);
        correct.push(right == 1.0);
    }
    (!correct.is_empty()).then(|| calibration(&confidence, &correct, bins))
}
