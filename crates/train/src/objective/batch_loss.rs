//! What an objective found in a batch.

use std::collections::BTreeMap;

/// What an objective found in a batch: sums, so that those of several batches can be added.
///
/// # Examples
/// ```
/// use flametune_train::BatchLoss;
///
/// // Two pairs, one of which is ranked as it should be.
/// let mut step = BatchLoss::new(1.25).with("accuracy", 1.0, 2.0);
/// step.add(&BatchLoss::new(0.25).with("accuracy", 2.0, 2.0));
/// assert_eq!(step.sum, 1.5);
/// assert_eq!(step.means()["accuracy"], 0.75);
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BatchLoss {
    /// The sum of the losses.
    pub sum: f64,
    /// By name, a sum and what it is the sum over.
    parts: BTreeMap<String, (f64, f64)>,
}

impl BatchLoss {
    /// A loss without parts.
    pub fn new(sum: f64) -> Self {
        let parts = BTreeMap::new();
        Self { sum, parts }
    }

    /// Adds something to be logged: the mean of it is `sum / weight`.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, sum: f64, weight: f64) -> Self {
        self.add_part(name.into(), sum, weight);
        self
    }

    /// Adds what another batch came to.
    pub fn add(&mut self, other: &Self) {
        self.sum += other.sum;
        for (name, &(sum, weight)) in &other.parts {
            self.add_part(name.clone(), sum, weight);
        }
    }

    /// The means of what is logged; what had no weight has none.
    pub fn means(&self) -> BTreeMap<String, f64> {
        let parts = self.parts.iter();
        let weighed = parts.filter(|(_, (_, weight))| *weight > 0.0);
        weighed
            .map(|(name, (sum, weight))| (name.clone(), sum / weight))
            .collect()
    }

    fn add_part(&mut self, name: String, sum: f64, weight: f64) {
        let part = self.parts.entry(name).or_default();
        part.0 += sum;
        part.1 += weight;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_means_over_their_own_weight() {
        let mut all = BatchLoss::new(1.0).with("a", 6.0, 3.0).with("b", 0.0, 0.0);
        all.add(&BatchLoss::new(0.5).with("a", 0.0, 1.0).with("c", 5.0, 2.0));
        assert_eq!(all.sum, 1.5);
        let expected = [("a".to_owned(), 1.5), ("c".to_owned(), 2.5)];
        assert_eq!(all.means(), BTreeMap::from(expected));
    }
}
