//! Those who are told what happens in a run.

use std::path::Path;

use super::Ended;
use crate::early_stopping::Best;
use crate::error::Result;
use crate::trainer::{EvalReport, StepReport};

/// How a run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FitStart {
    /// Optimizer steps taken before; above 0 in a resumed run.
    pub step: usize,
    /// Optimizer steps of the run.
    pub max_steps: usize,
    /// Optimizer steps that go through the data once.
    pub steps_per_epoch: usize,
}

/// What a model answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What it was asked.
    pub prompt: String,
    /// What it answered.
    pub text: String,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FitEnd {
    /// Optimizer steps taken.
    pub step: usize,
    /// Why it ended.
    pub ended: Ended,
    /// The best evaluation after a step.
    pub best: Best,
}

/// Is told what happens in a run; an error ends it.
#[expect(unused_variables, reason = "the names say what is told")]
pub trait FitObserver {
    /// The run begins, or goes on.
    ///
    /// # Errors
    /// When it cannot be noted; likewise for all others.
    fn on_start(&mut self, start: &FitStart) -> Result<()> {
        Ok(())
    }

    /// An optimizer step was taken.
    ///
    /// # Errors
    /// As [`on_start`](Self::on_start).
    fn on_step(&mut self, report: &StepReport) -> Result<()> {
        Ok(())
    }

    /// The validation loss was measured.
    ///
    /// # Errors
    /// As [`on_start`](Self::on_start).
    fn on_eval(&mut self, report: &EvalReport) -> Result<()> {
        Ok(())
    }

    /// The model was asked something after `step` steps.
    ///
    /// # Errors
    /// As [`on_start`](Self::on_start).
    fn on_sample(&mut self, step: usize, answer: &Answer) -> Result<()> {
        Ok(())
    }

    /// A checkpoint was written.
    ///
    /// # Errors
    /// As [`on_start`](Self::on_start).
    fn on_checkpoint(&mut self, step: usize, path: &Path) -> Result<()> {
        Ok(())
    }

    /// Something looked wrong.
    ///
    /// # Errors
    /// As [`on_start`](Self::on_start).
    fn on_warning(&mut self, step: usize, text: &str) -> Result<()> {
        Ok(())
    }

    /// The run ended.
    ///
    /// # Errors
    /// As [`on_start`](Self::on_start).
    fn on_finish(&mut self, end: &FitEnd) -> Result<()> {
        Ok(())
    }
}

/// Several observers, told in order.
#[derive(Default)]
pub struct Observers<'a>(
    /// Those who are told.
    pub Vec<&'a mut dyn FitObserver>,
);

impl std::fmt::Debug for Observers<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Observers").field(&self.0.len()).finish()
    }
}

impl Observers<'_> {
    fn each(&mut self, mut tell: impl FnMut(&mut dyn FitObserver) -> Result<()>) -> Result<()> {
        self.0.iter_mut().try_for_each(|observer| tell(*observer))
    }
}

impl FitObserver for Observers<'_> {
    fn on_start(&mut self, start: &FitStart) -> Result<()> {
        self.each(|observer| observer.on_start(start))
    }

    fn on_step(&mut self, report: &StepReport) -> Result<()> {
        self.each(|observer| observer.on_step(report))
    }

    fn on_eval(&mut self, report: &EvalReport) -> Result<()> {
        self.each(|observer| observer.on_eval(report))
    }

    fn on_sample(&mut self, step: usize, answer: &Answer) -> Result<()> {
        self.each(|observer| observer.on_sample(step, answer))
    }

    fn on_checkpoint(&mut self, step: usize, path: &Path) -> Result<()> {
        self.each(|observer| observer.on_checkpoint(step, path))
    }

    fn on_warning(&mut self, step: usize, text: &str) -> Result<()> {
        self.each(|observer| observer.on_warning(step, text))
    }

    fn on_finish(&mut self, end: &FitEnd) -> Result<()> {
        self.each(|observer| observer.on_finish(end))
    }
}
