//! Several measurements of one thing.

/// Measurements, in the order of their size.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample(Vec<f64>);

impl Sample {
    /// Sorts the measurements; `None` when there are none.
    pub fn new(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        (!values.is_empty()).then_some(Self(values))
    }

    /// The middle one, or the mean of the two in the middle.
    pub fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        if self.0.len() % 2 == 1 {
            self.0[middle]
        } else {
            f64::midpoint(self.0[middle - 1], self.0[middle])
        }
    }

    /// The smallest.
    pub fn min(&self) -> f64 {
        self.0[0]
    }

    /// The greatest.
    pub fn max(&self) -> f64 {
        self.0[self.0.len() - 1]
    }

    /// Every measurement times a factor.
    pub fn scaled(&self, factor: f64) -> Self {
        Self(self.0.iter().map(|value| value * factor).collect())
    }

    /// How many there are.
    pub fn runs(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_numbers_of_values() {
        let odd = Sample::new(vec![5.0, 1.0, 3.0]).unwrap();
        assert_eq!((odd.min(), odd.median(), odd.max()), (1.0, 3.0, 5.0));
        let even = Sample::new(vec![4.0, 1.0, 2.0, 9.0]).unwrap();
        assert_eq!((even.median(), even.runs()), (3.0, 4));
        assert_eq!(even.scaled(2.0).median(), 6.0);
        assert_eq!(Sample::new(vec![]), None);
    }
}
