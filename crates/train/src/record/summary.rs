//! The numbers that sum a run up.

use std::collections::{BTreeMap, VecDeque};

use super::{Evaluation, Event, Record};

/// Steps whose mean loss stands for the loss at the end.
const LAST_STEPS: usize = 10;

/// Running totals of a run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Summary {
    steps: usize,
    tokens: usize,
    seconds: f64,
    last: VecDeque<f64>,
    evals: BTreeMap<String, (f64, f64)>,
    /// What else the last evaluations measured.
    others: BTreeMap<String, f64>,
    peak_bytes: Option<u64>,
}

impl Summary {
    /// Takes in what happened next.
    pub fn observe(&mut self, record: &Record) {
        match &record.event {
            Event::Started(_) => *self = Self::default(),
            Event::Step(step) => {
                self.steps = step.report.step;
                self.tokens += step.report.tokens;
                self.seconds += step.report.seconds;
                self.last.push_back(step.report.loss);
                if self.last.len() > LAST_STEPS {
                    self.last.pop_front();
                }
                let peak = step.memory.map(|memory| memory.peak_bytes);
                self.peak_bytes = self.peak_bytes.max(peak);
            }
            Event::Eval(Evaluation {
                name,
                loss,
                metrics,
                ..
            }) => {
                for (metric, value) in metrics {
                    self.others.insert(format!("{name}/{metric}"), *value);
                }
                let (last, best) = self.evals.entry(name.clone()).or_insert((*loss, *loss));
                *last = *loss;
                *best = best.min(*loss);
            }
            _ => {}
        }
    }

    /// The numbers by name: `steps`, `tokens`, `seconds` (of training), `train/loss` (the mean of
    /// the last ten steps), `train/tokens_per_second`, `NAME/loss` and `NAME/best_loss` of the
    /// evaluations on `NAME` with what else they measured, `memory/peak_bytes`. What was not
    /// measured is missing.
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let mut metrics = self.others.clone();
        metrics.extend([
            ("steps".to_owned(), self.steps as f64),
            ("tokens".to_owned(), self.tokens as f64),
            ("seconds".to_owned(), self.seconds),
        ]);
        if !self.last.is_empty() {
            let mean = self.last.iter().sum::<f64>() / self.last.len() as f64;
            metrics.insert("train/loss".to_owned(), mean);
        }
        if self.seconds > 0.0 {
            let rate = self.tokens as f64 / self.seconds;
            metrics.insert("train/tokens_per_second".to_owned(), rate);
        }
        for (name, (last, best)) in &self.evals {
            metrics.insert(format!("{name}/loss"), *last);
            metrics.insert(format!("{name}/best_loss"), *best);
        }
        if let Some(peak) = self.peak_bytes {
            metrics.insert("memory/peak_bytes".to_owned(), peak as f64);
        }
        metrics
    }
}
