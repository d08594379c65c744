//! Everything a run's log says, by kind.

use std::path::Path;

use super::{
    CheckpointWritten, Evaluation, Event, Note, Outcome, Record, RunDescription, SampleText,
    Summary, TrainedStep, ZeroTensors, jsonl,
};
use crate::error::Result;

/// What happened in a run, sorted by kind; each list is in order of time.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// What the run is.
    pub description: Option<RunDescription>,
    /// The optimizer steps.
    pub steps: Vec<TrainedStep>,
    /// The evaluations.
    pub evaluations: Vec<Evaluation>,
    /// The model's answers.
    pub samples: Vec<SampleText>,
    /// Looks at the trained tensors.
    pub zeros: Vec<ZeroTensors>,
    /// The checkpoints.
    pub checkpoints: Vec<CheckpointWritten>,
    /// The warnings.
    pub warnings: Vec<Note>,
    /// The steps after which the run was resumed.
    pub resumed: Vec<usize>,
    /// How it ended, if it did.
    pub outcome: Option<Outcome>,
    /// When it began, in seconds since 1970.
    pub started: Option<f64>,
    /// The numbers that sum it up.
    pub summary: Summary,
}

impl History {
    /// Reads a log.
    ///
    /// # Errors
    /// Those of [`read`](super::read).
    pub fn read(log: &Path) -> Result<Self> {
        Ok(jsonl::read(log)?.into_iter().collect())
    }

    /// Takes in what happened next.
    pub fn observe(&mut self, record: &Record) {
        self.summary.observe(record);
        match &record.event {
            Event::Started(description) => {
                *self = Self {
                    description: Some((**description).clone()),
                    started: Some(record.time),
                    summary: std::mem::take(&mut self.summary),
                    ..Self::default()
                };
            }
            Event::Resumed(event) => {
                self.outcome = None;
                self.resumed.push(event.step);
            }
            Event::Step(event) => self.steps.push(event.clone()),
            Event::Eval(event) => self.evaluations.push(event.clone()),
            Event::Sample(event) => self.samples.push(event.clone()),
            Event::Zeros(event) => self.zeros.push(event.clone()),
            Event::Checkpoint(event) => self.checkpoints.push(event.clone()),
            Event::Warning(event) => self.warnings.push(event.clone()),
            Event::Finished(event) => self.outcome = Some(event.clone()),
        }
    }

    /// The evaluations on the data called `name`.
    pub fn evaluations_on(&self, name: &str) -> impl Iterator<Item = &Evaluation> {
        self.evaluations
            .iter()
            .filter(move |eval| eval.name == name)
    }
}

impl FromIterator<Record> for History {
    fn from_iter<I: IntoIterator<Item = Record>>(records: I) -> Self {
        let mut history = Self::default();
        for record in records {
            history.observe(&record);
        }
        history
    }
}
