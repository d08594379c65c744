//! Enters a run into the store while it goes on.

use super::RunStore;
use crate::error::Result;
use crate::record::{Event, Observer, Record, Status, Summary};

/// Numbers that wait to be written together.
const BATCH: usize = 400;

/// Enters the events of one run into a store.
///
/// Numbers are written in batches, at evaluations, checkpoints and the end; what a killed run has
/// not written, its log has.
#[derive(Debug)]
pub struct StoreObserver {
    store: RunStore,
    run: Option<i64>,
    summary: Summary,
    pending: Vec<(String, usize, f64)>,
}

impl StoreObserver {
    /// Will enter a run into `store`.
    pub fn new(store: RunStore) -> Self {
        Self {
            store,
            run: None,
            summary: Summary::default(),
            pending: Vec::new(),
        }
    }

    /// The number of the run, once it has begun.
    pub fn run(&self) -> Option<i64> {
        self.run
    }

    fn flush(&mut self) -> Result<()> {
        if let Some(run) = self.run
            && !self.pending.is_empty()
        {
            self.store.add_metrics(run, &self.pending)?;
            self.pending.clear();
        }
        Ok(())
    }

    /// Puts the numbers of an event with those that wait.
    fn collect(&mut self, event: &Event) {
        let mut add = |name: &str, step, value| self.pending.push((name.to_owned(), step, value));
        match event {
            Event::Step(step) => {
                let report = &step.report;
                add("train/loss", report.step, report.loss);
                add("train/grad_norm", report.step, report.grad_norm);
                add("train/learning_rate", report.step, report.learning_rate);
                let rate = step.tokens_per_second();
                add("train/tokens_per_second", report.step, rate);
                for (name, value) in &report.metrics {
                    add(&format!("train/{name}"), report.step, *value);
                }
            }
            Event::Eval(eval) => {
                add(&format!("{}/loss", eval.name), eval.step, eval.loss);
                for (metric, value) in &eval.metrics {
                    add(&format!("{}/{metric}", eval.name), eval.step, *value);
                }
            }
            _ => {}
        }
    }

    /// How the run stands now, so that a list of runs that go on is worth reading.
    fn stand(&self, status: Status, step: usize, time: f64) -> Result<()> {
        match self.run {
            Some(run) => {
                let metrics = self.summary.metrics();
                self.store.finish(run, status, step, time, &metrics)
            }
            None => Ok(()),
        }
    }
}

impl Observer for StoreObserver {
    fn observe(&mut self, record: &Record) -> Result<()> {
        self.summary.observe(record);
        self.collect(&record.event);
        match &record.event {
            Event::Started(description) => {
                self.run = Some(self.store.start(description, record.time)?);
                Ok(())
            }
            Event::Eval(_) | Event::Checkpoint(_) => {
                self.flush()?;
                self.stand(Status::Running, record.event.step(), record.time)
            }
            Event::Finished(outcome) => {
                self.flush()?;
                self.stand(outcome.status, outcome.step, record.time)
            }
            _ if self.pending.len() >= BATCH => self.flush(),
            _ => Ok(()),
        }
    }

    /// Goes on with the entry of the run, or makes one if the store has none.
    fn resume(&mut self, earlier: &[Record], step: usize) -> Result<()> {
        for record in earlier {
            self.summary.observe(record);
            self.collect(&record.event);
            if let Event::Started(description) = &record.event {
                let known = self.store.reopen(&description.folder, step)?;
                self.run = Some(match known {
                    Some(run) => run,
                    None => self.store.start(description, record.time)?,
                });
            }
        }
        self.flush()
    }
}
