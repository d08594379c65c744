//! The record of a run: what happened, written down as it happens.
//!
//! A [`RunRecord`] is told every [`Event`] once and passes it on: to the JSONL log that the other
//! readers of a run start from, and to the observers it was given — TensorBoard, an HTML report, a
//! store of many runs.
//!
//! ```text
//! FOLDER/record.jsonl            one event a line
//! FOLDER/events.out.tfevents.*   the same numbers for TensorBoard
//! FOLDER/report.html             the same for people
//! ```

mod event;
mod fit;
mod history;
mod html;
mod jsonl;
mod memory;
mod progress;
mod store;
mod summary;
pub(crate) mod table;
mod tensorboard;

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::trainer::StepReport;

pub use event::{
    AdapterFacts, CheckpointWritten, DataFacts, Evaluation, Event, ModelFacts, Note, Outcome,
    Record, Resumption, RunDescription, SampleText, Status, TrainedStep, ZeroTensors, environment,
};
pub use history::History;
pub use html::{HtmlReport, render};
pub use jsonl::{JsonlLog, read};
pub(crate) use memory::Bytes;
pub use memory::Memory;
pub use progress::{Progress, ProgressMeter};
pub use store::{Comparison, RunDetails, RunList, RunRow, RunStore, StoreObserver};
pub use summary::Summary;
pub use tensorboard::{EventFile, crc32c};

/// The name of the JSONL log in a run's folder.
pub const LOG: &str = "record.jsonl";

/// The name of the HTML report in a run's folder.
pub const REPORT: &str = "report.html";

/// Tells the time, in seconds since 1970.
pub type Clock = Box<dyn Fn() -> f64 + Send>;

/// Is told what happens in a run.
pub trait Observer: Send {
    /// Something happened.
    ///
    /// # Errors
    /// When it cannot be written down.
    fn observe(&mut self, record: &Record) -> Result<()>;

    /// The run goes on after `step`; `earlier` is what happened up to there.
    ///
    /// # Errors
    /// When it cannot be written down.
    fn resume(&mut self, earlier: &[Record], step: usize) -> Result<()> {
        let _ = step;
        earlier.iter().try_for_each(|record| self.observe(record))
    }
}

/// Passes the events of a run on to those who write them down.
///
/// # Examples
/// ```
/// use flametune_train::record::{Event, History, Note, RunRecord};
///
/// let folder = tempfile::tempdir()?;
/// let mut record = RunRecord::create(folder.path(), Box::new(|| 0.0))?;
/// record.event(Event::Warning(Note { step: 3, text: "the loss jumped".to_owned() }))?;
/// let history = History::read(record.log())?;
/// assert_eq!(history.warnings[0].text, "the loss jumped");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct RunRecord {
    clock: Clock,
    log: JsonlLog,
    observers: Vec<Box<dyn Observer>>,
    /// What a resumed run's observers are told first.
    earlier: Option<(Vec<Record>, usize)>,
}

impl RunRecord {
    /// Begins the record of a run in `folder`, which is made; an old log there is replaced.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when folder or log cannot be written.
    pub fn create(folder: &Path, clock: Clock) -> Result<Self> {
        Ok(Self {
            clock,
            log: JsonlLog::create(&folder.join(LOG))?,
            observers: Vec::new(),
            earlier: None,
        })
    }

    /// Whether the log says what the run is: that of a resumed run does, unless it was lost.
    pub fn is_described(&self) -> bool {
        let earlier = self.earlier.iter().flat_map(|(records, _)| records);
        earlier
            .into_iter()
            .any(|record| matches!(record.event, Event::Started(_)))
    }

    /// Goes on with the record of a run that is resumed after `step`: what the log says of later
    /// steps is cut off, as they will happen again. What happens at `step` itself and was written
    /// down before is not written down twice. A log that is gone begins anew.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io), and [`Error::RecordLine`](crate::Error::RecordLine) for a
    /// line that is no event.
    pub fn resume(folder: &Path, step: usize, clock: Clock) -> Result<Self> {
        let (log, earlier) = JsonlLog::resume(&folder.join(LOG), step)?;
        let mut record = Self {
            clock,
            log,
            observers: Vec::new(),
            earlier: Some((earlier, step)),
        };
        record.event(Event::Resumed(Resumption { step }))?;
        Ok(record)
    }

    /// Adds an observer; in a resumed run it is told what happened before.
    ///
    /// # Errors
    /// Those of the observer.
    pub fn observe_with(&mut self, mut observer: Box<dyn Observer>) -> Result<()> {
        if let Some((earlier, step)) = &self.earlier {
            observer.resume(earlier, *step)?;
        }
        self.observers.push(observer);
        Ok(())
    }

    /// The path of the log.
    pub fn log(&self) -> &Path {
        self.log.path()
    }

    /// Writes an event down.
    ///
    /// # Errors
    /// Those of the log and of the observers.
    pub fn event(&mut self, event: Event) -> Result<()> {
        if self.repeats(&event) {
            return Ok(());
        }
        let record = Record {
            time: (self.clock)(),
            event,
        };
        self.log.observe(&record)?;
        for observer in &mut self.observers {
            observer.observe(&record)?;
        }
        if let Some((earlier, _)) = &mut self.earlier {
            earlier.push(record);
        }
        Ok(())
    }

    /// Whether a resumed run has come again upon what was measured where it stopped.
    fn repeats(&self, event: &Event) -> bool {
        let Some((earlier, step)) = &self.earlier else {
            return false;
        };
        let mut there = earlier
            .iter()
            .map(|record| &record.event)
            .filter(|earlier| earlier.step() == *step && event.step() == *step);
        match event {
            Event::Eval(now) => {
                there.any(|before| matches!(before, Event::Eval(e) if e.name == now.name))
            }
            Event::Sample(now) => {
                there.any(|before| matches!(before, Event::Sample(s) if s.prompt == now.prompt))
            }
            _ => false,
        }
    }

    /// Writes an optimizer step down, and a warning if its loss was a spike.
    ///
    /// # Errors
    /// As [`event`](Self::event).
    pub fn step(&mut self, report: &StepReport) -> Result<TrainedStep> {
        let step = TrainedStep {
            report: report.clone(),
            memory: Memory::now(),
        };
        self.event(Event::Step(step.clone()))?;
        if let Some(limit) = report.spike_above {
            let text = format!("the loss {:.4} jumped over {limit:.4}", report.loss);
            self.event(Event::Warning(Note {
                step: report.step,
                text,
            }))?;
        }
        Ok(step)
    }
}

impl std::fmt::Debug for RunRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunRecord")
            .field("log", &self.log)
            .field("observers", &self.observers.len())
            .finish_non_exhaustive()
    }
}

/// Says which file could not be read or written.
fn io(path: &Path) -> impl Fn(std::io::Error) -> crate::Error + use<> {
    let path: PathBuf = path.to_owned();
    move |source| crate::Error::Io {
        path: path.clone(),
        source,
    }
}

#[cfg(test)]
pub(crate) mod tests;
