//! Watches the loss: numbers that are none, and jumps.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Losses that a jump is measured against.
const WINDOW: usize = 50;

/// Losses before anything is called a jump.
const FIRST: usize = 10;

/// How many mean deviations above the mean a loss is a jump.
const DEVIATIONS: f64 = 6.0;

/// Finds losses far above those before.
///
/// A loss is a spike when it exceeds the mean of the last 50 by six of their mean absolute
/// deviations, and by a tenth of the mean at least. Spikes do not enter the window.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SpikeGuard {
    recent: VecDeque<f64>,
}

impl SpikeGuard {
    /// Takes a loss in; the level that it should not have exceeded if it is a spike.
    pub fn observe(&mut self, loss: f64) -> Option<f64> {
        if self.recent.len() >= FIRST {
            #[expect(clippy::cast_precision_loss, reason = "at most 50")]
            let count = self.recent.len() as f64;
            let mean = self.recent.iter().sum::<f64>() / count;
            let deviation = self.recent.iter().map(|x| (x - mean).abs()).sum::<f64>() / count;
            let limit = mean + (DEVIATIONS * deviation).max(0.1 * mean.abs());
            if loss > limit {
                return Some(limit);
            }
        }
        self.recent.push_back(loss);
        if self.recent.len() > WINDOW {
            self.recent.pop_front();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_jumps_are_spikes() {
        let mut guard = SpikeGuard::default();
        for step in 0..60 {
            let loss = 3.0 - 0.02 * f64::from(step) + 0.1 * f64::from(step % 3);
            assert_eq!(guard.observe(loss), None, "step {step}");
        }
        assert!(guard.observe(9.0).is_some_and(|limit| limit < 9.0));
        assert_eq!(guard.observe(1.9), None);
    }

    #[test]
    fn the_first_losses_are_never_spikes() {
        let mut guard = SpikeGuard::default();
        for loss in [1.0, 100.0, 0.1, 50.0] {
            assert_eq!(guard.observe(loss), None);
        }
    }
}
