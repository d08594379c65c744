//! Logged numbers that are averaged over batches.

use std::collections::BTreeMap;

use flametune_train::BatchLoss;

/// Means of logged numbers, by the names that TRL gives them.
///
/// Each number is a weighted sum with its weight, so that means over micro-batches of different
/// sizes are means over their pairs or tokens.
///
/// # Examples
/// ```
/// use flametune_align::Metrics;
///
/// let mut metrics = Metrics::default();
/// metrics.add("rewards/chosen", 3.0, 2.0);
/// let mut more = Metrics::default();
/// more.add("rewards/chosen", 3.0, 1.0);
/// metrics.merge(&more);
/// assert_eq!(metrics.mean("rewards/chosen"), Some(2.0));
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics {
    sums: BTreeMap<String, (f64, f64)>,
}

impl Metrics {
    /// Adds `sum`, of `weight` pairs or tokens; a weight of zero adds nothing.
    pub fn add(&mut self, name: impl Into<String>, sum: f64, weight: f64) {
        if weight > 0.0 {
            let entry = self.sums.entry(name.into()).or_insert((0.0, 0.0));
            entry.0 += sum;
            entry.1 += weight;
        }
    }

    /// Adds numbers of weight one each.
    pub fn extend(&mut self, name: impl Into<String>, numbers: impl IntoIterator<Item = f64>) {
        let (mut sum, mut weight) = (0.0, 0.0);
        for number in numbers {
            sum += number;
            weight += 1.0;
        }
        self.add(name, sum, weight);
    }

    /// Adds the numbers of others.
    pub fn merge(&mut self, other: &Self) {
        for (name, (sum, weight)) in &other.sums {
            self.add(name.as_str(), *sum, *weight);
        }
    }

    /// The mean of a number.
    pub fn mean(&self, name: &str) -> Option<f64> {
        self.sums.get(name).map(|(sum, weight)| sum / weight)
    }

    /// All means, by name.
    pub fn means(&self) -> BTreeMap<String, f64> {
        let mean = |(name, (sum, weight)): (&String, &(f64, f64))| (name.clone(), sum / weight);
        self.sums.iter().map(mean).collect()
    }

    /// These numbers beside a loss sum, as a trainer logs them.
    #[must_use]
    pub fn with_loss(&self, sum: f64) -> BatchLoss {
        let parts = self.sums.iter();
        parts.fold(BatchLoss::new(sum), |loss, (name, (sum, weight))| {
            loss.with(name.as_str(), *sum, *weight)
        })
    }

    /// Whether nothing was logged.
    pub fn is_empty(&self) -> bool {
        self.sums.is_empty()
    }
}
