//! Values over the steps of a run, and what a stretch of them amounts to.

use crate::record::{History, TrainedStep};

/// Finite values with the steps they are of, in order.
#[derive(Debug, Clone)]
pub(super) struct Series(Vec<(usize, f64)>);

/// A stretch of a series.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stretch {
    /// The first and the last step.
    pub(super) steps: (usize, usize),
    /// The mean.
    pub(super) mean: f64,
    /// The value that half of them exceed.
    pub(super) median: f64,
    /// How far the mean is off by chance, the values taken as independent.
    pub(super) error: f64,
}

impl Series {
    /// A value of every step.
    pub(super) fn of(history: &History, value: fn(&TrainedStep) -> f64) -> Self {
        let point = |step: &TrainedStep| (step.report.step, value(step));
        let points = history.steps.iter().map(point);
        Self(points.filter(|(_, value)| value.is_finite()).collect())
    }

    /// The losses.
    pub(super) fn losses(history: &History) -> Self {
        Self::of(history, |step| step.report.loss)
    }

    /// The norms of the gradients, before clipping.
    pub(super) fn grad_norms(history: &History) -> Self {
        Self::of(history, |step| step.report.grad_norm)
    }

    /// The learning rates.
    pub(super) fn learning_rates(history: &History) -> Self {
        Self::of(history, |step| step.report.learning_rate)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn points(&self) -> &[(usize, f64)] {
        &self.0
    }

    /// The step and value of the largest value.
    pub(super) fn largest(&self) -> Option<(usize, f64)> {
        self.0.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// The whole series.
    pub(super) fn whole(&self) -> Option<Stretch> {
        stretch(&self.0)
    }

    /// Four stretches of equal length, if there are at least `least` values.
    pub(super) fn quarters(&self, least: usize) -> Option<[Stretch; 4]> {
        let size = self.0.len() / 4;
        if size == 0 || self.0.len() < least {
            return None;
        }
        // What does not divide by four goes to the first.
        let first = self.0.len() - 3 * size;
        let part = |index: usize| {
            let end = first + index * size;
            let begin = if index == 0 { 0 } else { end - size };
            stretch(&self.0[begin..end])
        };
        Some([part(0)?, part(1)?, part(2)?, part(3)?])
    }

    /// The last `len` values up to `step`.
    pub(super) fn before(&self, step: usize, len: usize) -> Option<Stretch> {
        let end = self.0.partition_point(|(at, _)| *at <= step);
        stretch(&self.0[end.saturating_sub(len)..end])
    }

    /// The first `len` values after `step`.
    pub(super) fn after(&self, step: usize, len: usize) -> Option<Stretch> {
        let begin = self.0.partition_point(|(at, _)| *at <= step);
        stretch(&self.0[begin..(begin + len).min(self.0.len())])
    }
}

fn stretch(points: &[(usize, f64)]) -> Option<Stretch> {
    let (first, last) = (points.first()?, points.last()?);
    let count = points.len() as f64;
    let mean = points.iter().map(|(_, value)| value).sum::<f64>() / count;
    let squares: f64 = points.iter().map(|(_, value)| (value - mean).powi(2)).sum();
    let mut values: Vec<f64> = points.iter().map(|(_, value)| *value).collect();
    values.sort_by(f64::total_cmp);
    Some(Stretch {
        steps: (first.0, last.0),
        mean,
        median: values[values.len() / 2],
        error: (squares / (count - 1.0).max(1.0) / count).sqrt(),
    })
}
