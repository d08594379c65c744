//! The record of a run listens to the run.

use std::path::Path;

use super::{
    CheckpointWritten, Evaluation, Event, Memory, Note, Outcome, RunRecord, SampleText, Status,
    TrainedStep,
};
use crate::error::Result;
use crate::fit::{Answer, Ended, FitEnd, FitObserver};
use crate::trainer::{EvalReport, StepReport};

/// Every event of the run is written down; what the run is has been said before, with
/// [`Event::Started`].
impl FitObserver for RunRecord {
    fn on_step(&mut self, report: &StepReport) -> Result<()> {
        self.event(Event::Step(TrainedStep {
            report: report.clone(),
            memory: Memory::now(),
        }))
    }

    fn on_eval(&mut self, report: &EvalReport) -> Result<()> {
        self.event(Event::Eval(Evaluation::new(Evaluation::OWN, report)))
    }

    fn on_sample(&mut self, step: usize, answer: &Answer) -> Result<()> {
        self.event(Event::Sample(SampleText {
            step,
            prompt: answer.prompt.clone(),
            text: answer.text.clone(),
        }))
    }

    fn on_checkpoint(&mut self, step: usize, path: &Path) -> Result<()> {
        self.event(Event::Checkpoint(CheckpointWritten {
            step,
            path: path.display().to_string(),
        }))
    }

    fn on_warning(&mut self, step: usize, text: &str) -> Result<()> {
        self.event(Event::Warning(Note {
            step,
            text: text.to_owned(),
        }))
    }

    fn on_finish(&mut self, end: &FitEnd) -> Result<()> {
        self.event(Event::Finished(Outcome {
            step: end.step,
            status: Status::of(end.ended),
            reason: None,
        }))
    }
}

impl Status {
    /// How a run stands that ended so.
    pub fn of(ended: Ended) -> Self {
        match ended {
            Ended::Finished => Self::Finished,
            Ended::StoppedEarly => Self::StoppedEarly,
            Ended::Interrupted => Self::Interrupted,
        }
    }
}
