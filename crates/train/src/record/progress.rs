//! What a progress line says.

use std::collections::VecDeque;
use std::fmt;

use super::{Memory, TrainedStep};

/// Steps that the speed is measured over.
const WINDOW: usize = 20;

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Optimizer steps taken.
    pub step: usize,
    /// Optimizer steps of the run.
    pub max_steps: usize,
    /// The loss of the last step.
    pub loss: f64,
    /// The speed over the last steps, padding included.
    pub tokens_per_second: f64,
    /// How long the remaining steps take at that speed.
    pub eta_seconds: f64,
    /// The memory of the process.
    pub memory: Option<Memory>,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "step {}/{}  loss {:.4}  {:.0} tokens/s  ETA {}",
            self.step,
            self.max_steps,
            self.loss,
            self.tokens_per_second,
            Seconds(self.eta_seconds),
        )?;
        match &self.memory {
            Some(memory) => write!(f, "  {memory}"),
            None => Ok(()),
        }
    }
}

/// Turns steps into progress.
#[derive(Debug, Clone)]
pub struct ProgressMeter {
    max_steps: usize,
    window: VecDeque<(usize, f64)>,
}

impl ProgressMeter {
    /// For a run of `max_steps`.
    pub fn new(max_steps: usize) -> Self {
        Self {
            max_steps,
            window: VecDeque::new(),
        }
    }

    /// Where the run stands after `step`.
    pub fn observe(&mut self, step: &TrainedStep) -> Progress {
        let report = &step.report;
        self.window.push_back((report.tokens, report.seconds));
        if self.window.len() > WINDOW {
            self.window.pop_front();
        }
        let tokens: usize = self.window.iter().map(|(tokens, _)| tokens).sum();
        let seconds: f64 = self.window.iter().map(|(_, seconds)| seconds).sum();
        let remaining = self.max_steps.saturating_sub(report.step);
        Progress {
            step: report.step,
            max_steps: self.max_steps,
            loss: report.loss,
            tokens_per_second: if seconds > 0.0 {
                tokens as f64 / seconds
            } else {
                0.0
            },
            eta_seconds: seconds / self.window.len() as f64 * remaining as f64,
            memory: step.memory,
        }
    }
}

/// A duration as people read it: the two largest units.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seconds(pub(crate) f64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "negative durations and those past the end of u64 saturate"
        )]
        let seconds = self.0.round() as u64;
        let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
        let text = if days > 0 {
            format!("{days}d{:02}h", hours % 24)
        } else if hours > 0 {
            format!("{hours}h{:02}m", minutes % 60)
        } else if minutes > 0 {
            format!("{minutes}m{:02}s", seconds % 60)
        } else {
            format!("{seconds}s")
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::step;
    use super::*;

    #[test]
    fn speed_and_remaining_time_follow_the_last_steps() {
        let mut meter = ProgressMeter::new(1000);
        meter.observe(&step(1, 3.0));
        let progress = meter.observe(&step(2, 2.5));
        // 1024 tokens in half a second, and 998 steps of that to go.
        assert_eq!(
            progress.to_string(),
            "step 2/1000  loss 2.5000  2048 tokens/s  ETA 8m19s  memory 1.00 GiB (peak 1.50 GiB)"
        );
    }

    #[test]
    fn durations_have_two_units() {
        let text = |seconds| Seconds(seconds).to_string();
        assert_eq!(text(59.4), "59s");
        assert_eq!(text(3599.9), "1h00m");
        assert_eq!(text(90_000.0), "1d01h");
        assert_eq!(text(-1.0), "0s");
        assert_eq!(text(f64::NAN), "0s");
    }
}
