//! Event files of TensorBoard.

mod frame;
mod proto;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::{Event, Observer, Record, io};
use crate::error::Result;

pub use frame::crc32c;

/// Writes the numbers of a run as a TensorBoard event file.
///
/// | tag | of |
/// |---|---|
/// | `train/loss`, `train/grad_norm`, `train/learning_rate`, `train/tokens_per_second` | every step |
/// | `train/NAME` | what the objective logs beside the loss |
/// | `memory/rss_bytes` | every step, where it can be read |
/// | `NAME/loss`, and what else was measured | every evaluation on `NAME` |
///
/// A resumed run writes a file of its own, which first tells TensorBoard to forget later steps.
///
/// # Source
/// - reference: tensorflow `core/util/event.proto`, `core/framework/summary.proto`,
///   `core/lib/io/record_writer.cc`
#[derive(Debug)]
pub struct EventFile {
    folder: PathBuf,
    open: Option<(PathBuf, File)>,
    /// Later steps of older files are forgotten.
    purge_after: Option<usize>,
}

impl EventFile {
    /// Will write into `folder`, with the first event.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            open: None,
            purge_after: None,
        }
    }

    /// The file, made when it is not there yet; its name carries the time, which is the order
    /// TensorBoard reads files in.
    fn file(&mut self, time: f64) -> Result<&mut (PathBuf, File)> {
        let open = match self.open.take() {
            Some(open) => open,
            None => {
                fs::create_dir_all(&self.folder).map_err(io(&self.folder))?;
                let mut first = frame::framed(&proto::version(time));
                if let Some(step) = self.purge_after {
                    first.extend(frame::framed(&proto::session_start(time, step + 1)));
                }
                let (path, mut file) = self.create(time)?;
                file.write_all(&first).map_err(io(&path))?;
                (path, file)
            }
        };
        Ok(self.open.insert(open))
    }

    /// A file that was not there before.
    fn create(&self, time: f64) -> Result<(PathBuf, File)> {
        let mut number = 0_usize;
        loop {
            let name = format!("events.out.tfevents.{time:010.0}.flametune.{number}");
            let path = self.folder.join(name);
            match File::create_new(&path) {
                Ok(file) => return Ok((path, file)),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(io(&path)(error)),
            }
        }
    }

    fn scalars(&mut self, time: f64, step: usize, values: &[(&str, f64)]) -> Result<()> {
        let (path, file) = self.file(time)?;
        let event = frame::framed(&proto::scalars(time, step, values));
        file.write_all(&event).map_err(io(path))
    }
}

impl Observer for EventFile {
    fn observe(&mut self, record: &Record) -> Result<()> {
        match &record.event {
            Event::Step(step) => {
                let report = &step.report;
                let mut values = vec![
                    ("train/loss", report.loss),
                    ("train/grad_norm", report.grad_norm),
                    ("train/learning_rate", report.learning_rate),
                    ("train/tokens_per_second", step.tokens_per_second()),
                ];
                let parts: Vec<String> = report
                    .metrics
                    .keys()
                    .map(|name| format!("train/{name}"))
                    .collect();
                values.extend(
                    parts
                        .iter()
                        .map(String::as_str)
                        .zip(report.metrics.values().copied()),
                );
                if let Some(memory) = &step.memory {
                    values.push(("memory/rss_bytes", memory.rss_bytes as f64));
                }
                self.scalars(record.time, report.step, &values)
            }
            Event::Eval(eval) => {
                let loss = [("loss", eval.loss)].into_iter();
                let others = eval
                    .metrics
                    .iter()
                    .map(|(name, value)| (name.as_str(), *value));
                let tagged: Vec<(String, f64)> = loss
                    .chain(others)
                    .map(|(name, value)| (format!("{}/{name}", eval.name), value))
                    .collect();
                let values: Vec<(&str, f64)> = tagged
                    .iter()
                    .map(|(tag, value)| (tag.as_str(), *value))
                    .collect();
                self.scalars(record.time, eval.step, &values)
            }
            _ => Ok(()),
        }
    }

    /// What happened before is in the files of before.
    fn resume(&mut self, _earlier: &[Record], step: usize) -> Result<()> {
        self.purge_after = Some(step);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
