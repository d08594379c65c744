//! Stopping when the validation loss no longer falls.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// When a run ends early.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlyStopping {
    /// Evaluations without improvement after which the run ends.
    pub patience: usize,
    /// By how much the loss must fall to count as improved.
    #[serde(default)]
    pub threshold: f64,
}

impl EarlyStopping {
    /// Checks the numbers.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] naming the field.
    pub fn validate(&self) -> Result<()> {
        let invalid = |field, reason| Err(Error::InvalidConfig { field, reason });
        if self.patience == 0 {
            return invalid("patience", "must be at least 1, got 0".to_owned());
        }
        if !(self.threshold.is_finite() && self.threshold >= 0.0) {
            let reason = format!("must be finite and not negative, got {}", self.threshold);
            return invalid("threshold", reason);
        }
        Ok(())
    }
}

/// The best evaluation so far, and how many have passed since.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Best {
    /// The lowest loss.
    pub loss: Option<f64>,
    /// The optimizer step after which it was measured.
    pub step: usize,
    /// Evaluations since the loss last improved by the threshold.
    pub since: usize,
}

impl Best {
    /// Takes an evaluation in; whether it is the best so far.
    pub fn observe(&mut self, step: usize, loss: f64, threshold: f64) -> bool {
        let improved = self.loss.is_none_or(|best| loss < best - threshold);
        self.since = if improved { 0 } else { self.since + 1 };
        let best = self.loss.is_none_or(|best| loss < best);
        if best {
            self.loss = Some(loss);
            self.step = step;
        }
        best
    }

    /// Whether a run ends here.
    pub fn exhausted(&self, stopping: &EarlyStopping) -> bool {
        self.since >= stopping.patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_counts_evaluations_without_enough_improvement() {
        let stopping = EarlyStopping {
            patience: 2,
            threshold: 0.1,
        };
        let mut best = Best::default();
        assert!(best.observe(10, 2.0, 0.1));
        assert!(best.observe(20, 1.95, 0.1)); // lower, not by enough
        assert!(!best.exhausted(&stopping));
        assert!(!best.observe(30, 1.96, 0.1));
        assert!(best.exhausted(&stopping));
        assert_eq!((best.loss, best.step), (Some(1.95), 20));
        assert!(best.observe(40, 1.5, 0.1));
        assert!(!best.exhausted(&stopping));
    }

    #[test]
    fn a_loss_that_is_no_number_never_is_the_best() {
        let mut best = Best::default();
        best.observe(1, 2.0, 0.0);
        assert!(!best.observe(2, f64::NAN, 0.0));
        assert_eq!(best.loss, Some(2.0));
    }
}
