//! When a run evaluates, saves and asks.

use std::path::PathBuf;

use crate::early_stopping::EarlyStopping;
use crate::error::{Error, Result};

/// When a run evaluates, saves and asks; steps are optimizer steps.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FitOptions {
    /// Steps between evaluations; without it only before the first step and after the last.
    pub eval_steps: Option<usize>,
    /// Steps between samples; without it only before the first step and after the last.
    pub sample_steps: Option<usize>,
    /// Where checkpoints go; without it none is written.
    pub checkpoints: Option<Checkpoints>,
    /// When the run ends before its last step.
    pub early_stopping: Option<EarlyStopping>,
}

/// Where checkpoints go, and how many of them are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoints {
    /// The folder.
    pub folder: PathBuf,
    /// Steps between them; without it one at the end, and one for every best evaluation.
    pub save_steps: Option<usize>,
    /// How many of the newest are kept, beside that of the best evaluation.
    pub keep: usize,
}

impl FitOptions {
    /// Steps between checkpoints.
    pub(super) fn save_steps(&self) -> Option<usize> {
        self.checkpoints.as_ref()?.save_steps
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] naming the field.
    pub fn validate(&self) -> Result<()> {
        let invalid = |field, reason: &str| {
            let reason = reason.to_owned();
            Err(Error::InvalidConfig { field, reason })
        };
        for (field, value) in [
            ("eval_steps", self.eval_steps),
            ("sample_steps", self.sample_steps),
            ("save_steps", self.save_steps()),
            ("keep", self.checkpoints.as_ref().map(|saved| saved.keep)),
        ] {
            if value == Some(0) {
                return invalid(field, "must be at least 1, got 0");
            }
        }
        let Some(stopping) = self.early_stopping else {
            return Ok(());
        };
        if self.eval_steps.is_none() {
            return invalid("early_stopping", "needs eval_steps");
        }
        stopping.validate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_and_early_stopping_without_evaluations_are_refused() {
        let refused = |options: FitOptions| options.validate().unwrap_err().to_string();
        let never = FitOptions {
            eval_steps: Some(0),
            ..FitOptions::default()
        };
        assert_eq!(refused(never), "eval_steps must be at least 1, got 0");
        let early = FitOptions {
            early_stopping: Some(EarlyStopping {
                patience: 1,
                threshold: 0.0,
            }),
            ..FitOptions::default()
        };
        assert_eq!(refused(early), "early_stopping needs eval_steps");
        assert!(FitOptions::default().validate().is_ok());
    }
}
