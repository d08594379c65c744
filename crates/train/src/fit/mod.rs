//! A whole run: steps, evaluations, checkpoints, and an end.
//!
//! The order within a step is: train, evaluate if it is time, save if it is time or the evaluation
//! was the best, ask for samples if it is time.
//! So a checkpoint holds what was known when it was written, and a resumed run goes on as the
//! unbroken one did.

mod digest;
mod feed;
mod observer;
mod options;
mod rows;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use flametune_lm::CausalLm;

use crate::checkpoint;
use crate::early_stopping::Best;
use crate::error::{Error, Result};
use crate::objective::Objective;
use crate::trainer::{StepReport, Trainer};

pub use digest::DataDigest;
pub use feed::{Drawn, Feed, FitData};
pub use observer::{Answer, FitEnd, FitObserver, FitStart, Observers};
pub use options::{Checkpoints, FitOptions};
pub use rows::{Packing, TrainingRows};

/// Asks a model the prompts of a run.
pub type Sampling<'a, M = CausalLm> = dyn Fn(&M) -> Result<Vec<Answer>> + 'a;

/// What a run needs from those who started it.
pub struct FitHooks<'a, M = CausalLm> {
    /// Writes the trained parameters of the model into a folder.
    pub save_model: &'a dyn Fn(&M, &Path) -> Result<()>,
    /// Asks the model, without autodiff, the run's prompts.
    pub sample: Option<&'a Sampling<'a, M>>,
    /// Set from outside when the run shall end after the step it is at.
    pub stop: &'a AtomicBool,
    /// Is told what happens.
    pub observer: &'a mut dyn FitObserver,
}

impl<M> std::fmt::Debug for FitHooks<'_, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FitHooks")
            .field("sample", &self.sample.is_some())
            .field("stop", &self.stop)
            .finish_non_exhaustive()
    }
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All steps were taken.
    Finished,
    /// The validation loss no longer fell.
    StoppedEarly,
    /// It was asked to stop.
    Interrupted,
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq)]
pub struct FitReport {
    /// Why it ended.
    pub ended: Ended,
    /// Optimizer steps taken, those before a resumption included.
    pub steps: usize,
    /// The validation loss before the first step, where it was measured in this process.
    pub first_eval: Option<f64>,
    /// The last validation loss.
    pub last_eval: Option<f64>,
    /// The best evaluation after a step.
    pub best: Best,
    /// The last checkpoint that was written.
    pub checkpoint: Option<PathBuf>,
}

/// Trains until all steps are taken, the validation loss no longer falls, or the run is stopped.
///
/// `best` is that of the checkpoint in a resumed run, else the default.
///
/// # Errors
/// Those of the steps and of the checkpoints, of `hooks`, and [`Error::NotFiniteBatch`] with the
/// records of the batch; the state before that batch is then saved.
pub fn fit<O: Objective, F: Feed<O>>(
    trainer: &mut Trainer<O>,
    feed: F,
    options: &FitOptions,
    best: Best,
    hooks: &mut FitHooks<'_, O::Model>,
) -> Result<FitReport> {
    options.validate()?;
    let report = FitReport {
        ended: Ended::Finished,
        steps: trainer.steps(),
        first_eval: None,
        last_eval: None,
        best,
        checkpoint: None,
    };
    let mut run = Run {
        trainer,
        feed,
        options,
        hooks,
        report,
        evaluated: None,
        saved: None,
    };
    run.start()?;
    let ended = run.steps()?;
    run.finish(ended)
}

struct Run<'r, 'h, O: Objective, F> {
    trainer: &'r mut Trainer<O>,
    feed: F,
    options: &'r FitOptions,
    hooks: &'r mut FitHooks<'h, O::Model>,
    report: FitReport,
    /// The step of the last evaluation in this process.
    evaluated: Option<usize>,
    /// The step of the last checkpoint.
    saved: Option<usize>,
}

impl<O: Objective, F: Feed<O>> Run<'_, '_, O, F> {
    fn start(&mut self) -> Result<()> {
        let start = FitStart {
            step: self.trainer.steps(),
            max_steps: self.trainer.config().max_steps,
            steps_per_epoch: self.feed.steps_per_epoch(),
        };
        self.hooks.observer.on_start(&start)?;
        if start.step > 0 {
            self.saved = Some(start.step);
            return Ok(());
        }
        self.report.first_eval = self.evaluate()?;
        self.sample()
    }

    fn steps(&mut self) -> Result<Ended> {
        while !self.trainer.is_finished() {
            if self.hooks.stop.load(Ordering::Relaxed) {
                return Ok(Ended::Interrupted);
            }
            self.step()?;
            let step = self.trainer.steps();
            let mut improved = false;
            if due(step, self.options.eval_steps) && !self.trainer.is_finished() {
                improved = self.evaluate_and_compare()?;
            }
            if due(step, self.options.save_steps()) || improved {
                self.save()?;
            }
            if due(step, self.options.sample_steps) && !self.trainer.is_finished() {
                self.sample()?;
            }
            if self.exhausted() {
                return Ok(Ended::StoppedEarly);
            }
        }
        Ok(Ended::Finished)
    }

    fn step(&mut self) -> Result<()> {
        let before = self.feed.cursor();
        let drawn = self.feed.next_step(self.trainer.model())?;
        match self.trainer.train_step(&drawn.batches) {
            Ok(report) => {
                self.hooks.observer.on_step(&report)?;
                self.warn_of_spike(&report, &drawn.rows)
            }
            Err(Error::NotFinite { what, step, value }) => {
                // What was learned before must not be lost with the run.
                self.save_at(&before)?;
                Err(Error::NotFiniteBatch {
                    what,
                    step,
                    value,
                    records: self.feed.name_records(&drawn.rows),
                })
            }
            Err(error) => Err(error),
        }
    }

    fn warn_of_spike(&mut self, report: &StepReport, rows: &[Vec<usize>]) -> Result<()> {
        let Some(limit) = report.spike_above else {
            return Ok(());
        };
        let records = self.feed.name_records(rows);
        let text = format!(
            "the loss {:.4} jumped over {limit:.4}; the batch holds {records}",
            report.loss
        );
        self.hooks.observer.on_warning(report.step, &text)
    }

    fn evaluate(&mut self) -> Result<Option<f64>> {
        if self.feed.evaluation().is_empty() {
            return Ok(None);
        }
        let report = self.trainer.evaluate(self.feed.evaluation())?;
        self.evaluated = Some(report.step);
        self.report.last_eval = Some(report.loss);
        self.hooks.observer.on_eval(&report)?;
        Ok(Some(report.loss))
    }

    /// Evaluates; whether it is the best after a step so far.
    fn evaluate_and_compare(&mut self) -> Result<bool> {
        let Some(loss) = self.evaluate()? else {
            return Ok(false);
        };
        let threshold = self.options.early_stopping.map_or(0.0, |s| s.threshold);
        let step = self.trainer.steps();
        Ok(self.report.best.observe(step, loss, threshold))
    }

    fn exhausted(&self) -> bool {
        let stopping = self.options.early_stopping.as_ref();
        stopping.is_some_and(|stopping| self.report.best.exhausted(stopping))
    }

    fn sample(&mut self) -> Result<()> {
        use burn::module::Module;
        let Some(ask) = self.hooks.sample else {
            return Ok(());
        };
        let model = self.trainer.model().valid();
        for answer in ask(&model)? {
            self.hooks
                .observer
                .on_sample(self.trainer.steps(), &answer)?;
        }
        Ok(())
    }

    fn save(&mut self) -> Result<()> {
        self.save_at(&self.feed.cursor())
    }

    fn save_at(&mut self, cursor: &F::Cursor) -> Result<()> {
        let step = self.trainer.steps();
        let Some(checkpoints) = &self.options.checkpoints else {
            return Ok(());
        };
        if step == 0 || self.saved == Some(step) {
            return Ok(());
        }
        let (model, save_model) = (self.trainer.model(), self.hooks.save_model);
        let save_model = |folder: &Path| save_model(model, folder);
        let best = &self.report.best;
        let path = checkpoint::save(&checkpoints.folder, self.trainer, cursor, best, &save_model)?;
        checkpoint::rotate(
            &checkpoints.folder,
            checkpoints.keep,
            best.loss.map(|_| best.step),
        )?;
        self.saved = Some(step);
        self.hooks.observer.on_checkpoint(step, &path)?;
        self.report.checkpoint = Some(path);
        Ok(())
    }

    fn finish(mut self, ended: Ended) -> Result<FitReport> {
        let step = self.trainer.steps();
        if ended != Ended::Interrupted && self.evaluated != Some(step) {
            self.evaluate_and_compare()?;
        }
        self.save()?;
        if ended != Ended::Interrupted && step > 0 {
            self.sample()?;
        }
        (self.report.ended, self.report.steps) = (ended, step);
        self.hooks.observer.on_finish(&FitEnd {
            step,
            ended,
            best: self.report.best,
        })?;
        Ok(self.report)
    }
}

fn due(step: usize, every: Option<usize>) -> bool {
    every.is_some_and(|every| step.is_multiple_of(every))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn something_is_due_every_so_many_steps_or_never() {
        let steps: Vec<usize> = (1..=6).filter(|&step| due(step, Some(3))).collect();
        assert_eq!(steps, [3, 6]);
        assert!(!due(3, None));
    }
}
