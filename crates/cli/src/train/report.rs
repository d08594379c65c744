//! What a run came to, for people.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};
use flametune_peft::TrainableReport;
use flametune_train::fit::{Answer, Ended, FitObserver, FitReport};
use flametune_train::record::Memory;
use flametune_train::{EvalReport, StepReport};
use indicatif::{HumanBytes, HumanDuration};
use serde_json::Value;

use super::folder::RunFolder;
use crate::recipe::Recipe;

/// Writes to standard output.
pub(crate) fn print(text: &str) -> Result<()> {
    writeln!(io::stdout(), "{}", text.trim_end()).context("cannot write to standard output")
}

/// Tells something on standard error.
pub(crate) fn note(text: &str) {
    // Nothing can be done when even this cannot be written.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Warns on standard error.
pub(crate) fn warn(text: &str) {
    note(&format!("warning: {text}"));
}

/// Gathers the figures of a run as it goes.
#[derive(Debug)]
pub(crate) struct RunReport {
    recipe: String,
    model: String,
    trained: String,
    evaluations: Vec<EvalReport>,
    samples: Vec<(usize, Answer)>,
    warnings: Vec<String>,
    steps: usize,
    tokens: usize,
    seconds: f64,
}

impl RunReport {
    pub(crate) fn new(name: &str, recipe: &Recipe, trained: &TrainableReport) -> Self {
        let trained = format!(
            "{} of {} parameters ({:.3} %)",
            trained.trainable,
            trained.total,
            trained.percent()
        );
        let trained = match recipe.adapter {
            Some(_) => trained,
            None => "all parameters".to_owned(),
        };
        note(&format!("trained: {trained}"));
        Self {
            recipe: name.to_owned(),
            model: recipe.model.path.clone(),
            trained,
            evaluations: Vec::new(),
            samples: Vec::new(),
            warnings: Vec::new(),
            steps: 0,
            tokens: 0,
            seconds: 0.0,
        }
    }

    /// Takes in what the log says of the run before it was interrupted.
    pub(crate) fn remember(&mut self, earlier: &[Value]) {
        for event in earlier {
            let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
            match event["event"].as_str() {
                Some("eval") => self
                    .evaluations
                    .extend(serde_json::from_value::<EvalReport>(event.clone()).ok()),
                Some("sample") => {
                    let step = event["step"]
                        .as_u64()
                        .and_then(|at| usize::try_from(at).ok());
                    let answer = Answer {
                        prompt: text("prompt"),
                        text: text("text"),
                    };
                    self.samples.push((step.unwrap_or_default(), answer));
                }
                Some("warning") => self.warnings.push(text("text")),
                _ => {}
            }
        }
    }

    /// Writes `report.md` and says the same on standard output.
    pub(crate) fn finish(
        &self,
        fitted: &FitReport,
        result: &Path,
        folder: &RunFolder,
    ) -> Result<()> {
        let text = self.text(fitted, result);
        let path = folder.report();
        fs::write(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
        print(&text)
    }

    fn text(&self, fitted: &FitReport, result: &Path) -> String {
        let mut text = format!("# {}\n\n", self.recipe);
        let mut row = |name: &str, value: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "- {name}: {value}");
        };
        row("model", self.model.clone());
        row("trained", self.trained.clone());
        let early = match fitted.ended {
            Ended::StoppedEarly => ", stopped early",
            Ended::Finished | Ended::Interrupted => "",
        };
        row("steps", format!("{}{early}", fitted.steps));
        if let (Some(first), Some(last)) = (self.evaluations.first(), self.evaluations.last()) {
            row(
                "validation loss",
                format!(
                    "{:.4} before step {}, {:.4} after step {}",
                    first.loss,
                    first.step + 1,
                    last.loss,
                    last.step
                ),
            );
            row(
                "perplexity",
                format!("{:.2}, then {:.2}", first.perplexity(), last.perplexity()),
            );
        }
        if let Some(loss) = fitted.best.loss {
            row("best", format!("{loss:.4} at step {}", fitted.best.step));
        }
        if self.seconds > 0.0 {
            row(
                "speed",
                format!(
                    "{:.0} tokens/s, {} in {} steps",
                    self.tokens as f64 / self.seconds,
                    HumanDuration(std::time::Duration::from_secs_f64(self.seconds)),
                    self.steps
                ),
            );
        }
        if let Some(memory) = Memory::now() {
            row("peak memory", HumanBytes(memory.peak_bytes).to_string());
        }
        row("result", result.display().to_string());
        self.samples_and_warnings(&mut text);
        text
    }

    fn samples_and_warnings(&self, text: &mut String) {
        let quoted = |text: &str| text.trim().replace('\n', "\n> ");
        let first = self.samples.first().map(|(step, _)| *step);
        let last = self.samples.last().map(|(step, _)| *step);
        let at = |wanted: Option<usize>| {
            let samples = self.samples.iter();
            samples.filter(move |(step, _)| Some(*step) == wanted)
        };
        for ((before, early), (after, late)) in at(first).zip(at(last)) {
            let _ = writeln!(text, "\n## {}\n", early.prompt);
            let _ = writeln!(text, "Step {before}:\n\n> {}\n", quoted(&early.text));
            if before != after {
                let _ = writeln!(text, "Step {after}:\n\n> {}", quoted(&late.text));
            }
        }
        if !self.warnings.is_empty() {
            let _ = writeln!(text, "\n## Warnings\n");
            for warning in &self.warnings {
                let _ = writeln!(text, "- {warning}");
            }
        }
    }
}

impl FitObserver for RunReport {
    fn on_step(&mut self, report: &StepReport) -> flametune_train::Result<()> {
        self.steps += 1;
        self.tokens += report.tokens;
        self.seconds += report.seconds;
        Ok(())
    }

    fn on_eval(&mut self, report: &EvalReport) -> flametune_train::Result<()> {
        self.evaluations.push(*report);
        Ok(())
    }

    fn on_sample(&mut self, step: usize, answer: &Answer) -> flametune_train::Result<()> {
        self.samples.push((step, answer.clone()));
        Ok(())
    }

    fn on_warning(&mut self, step: usize, text: &str) -> flametune_train::Result<()> {
        self.warnings.push(format!("step {step}: {text}"));
        Ok(())
    }
}
