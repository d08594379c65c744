//! What a run says on the terminal while it goes on.

use std::io::{self, IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use flametune_train::record::{
    Evaluation, Event, Observer, ProgressMeter, Record, RunDescription, Status, TrainedStep,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Time between lines where there is no terminal.
const QUIET: Duration = Duration::from_secs(10);

/// Writes to standard output.
pub(crate) fn print(text: &str) -> Result<()> {
    writeln!(io::stdout(), "{}", text.trim_end()).context("cannot write to standard output")
}

/// Tells something on standard error.
pub(crate) fn note(text: &str) {
    // Nothing can be done when even this cannot be written.
    let _ = writeln!(stderr(), "{text}");
}

/// Warns on standard error.
pub(crate) fn warn(text: &str) {
    note(&format!("warning: {text}"));
}

/// A bar with loss, speed, remaining time and memory; lines where there is no terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    bar: ProgressBar,
    is_terminal: bool,
    meter: ProgressMeter,
    max_steps: usize,
    said: Option<Instant>,
}

impl Terminal {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        let style = ProgressStyle::with_template("{bar:24} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self {
            bar,
            is_terminal: stderr().is_terminal(),
            meter: ProgressMeter::new(0),
            max_steps: 0,
            said: None,
        }
    }

    fn say(&self, line: &str) {
        self.bar.suspend(|| note(line));
    }

    fn describe(&mut self, run: &RunDescription) {
        self.max_steps = run.max_steps;
        self.meter = ProgressMeter::new(run.max_steps);
        self.bar.set_length(run.max_steps as u64);
        if self.is_terminal {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }

    fn step(&mut self, step: &TrainedStep) {
        let progress = self.meter.observe(step).to_string();
        self.bar.set_position(step.report.step as u64);
        if self.is_terminal {
            self.bar.set_message(progress);
        } else if self.said.is_none_or(|said| said.elapsed() > QUIET) {
            self.said = Some(Instant::now());
            self.say(&progress);
        }
    }

    fn tell(&mut self, event: &Event) {
        match event {
            Event::Started(run) => self.describe(run),
            Event::Resumed(event) => {
                let (step, max) = (event.step, self.max_steps);
                self.bar.set_position(step as u64);
                self.say(&format!("going on after step {step} of {max}"));
            }
            Event::Step(step) => self.step(step),
            Event::Eval(eval) => self.say(&evaluation(eval)),
            Event::Sample(sample) => {
                let text = sample.text.trim().replace('\n', "\n    ");
                self.say(&format!(
                    "step {}: {}\n    {text}",
                    sample.step, sample.prompt
                ));
            }
            Event::Zeros(zeros) if zeros.zero > 0 => self.say(&format!(
                "warning after step {}: {} of {} trained tensors are still zeros, such as {}",
                zeros.step,
                zeros.zero,
                zeros.trained,
                zeros.examples.join(", ")
            )),
            Event::Zeros(_) => {}
            Event::Checkpoint(saved) => {
                self.say(&format!("step {}: saved {}", saved.step, saved.path));
            }
            Event::Warning(warning) => self.say(&format!(
                "warning at step {}: {}",
                warning.step, warning.text
            )),
            Event::Finished(outcome) => {
                self.bar.finish_and_clear();
                if outcome.status == Status::Interrupted {
                    self.say(&format!("stopped after step {}", outcome.step));
                }
            }
        }
    }
}

/// `step 4: validation loss 1.9702, perplexity 7.17 (7719 tokens, 10.4 s)`
fn evaluation(eval: &Evaluation) -> String {
    let (step, loss) = (eval.step, eval.loss);
    let what = match eval.name.as_str() {
        Evaluation::OWN => "validation loss".to_owned(),
        name => format!("loss on {name}"),
    };
    let counted = format!("{} tokens, {:.1} s", eval.supervised_tokens, eval.seconds);
    if eval.metrics.is_empty() {
        return format!(
            "step {step}: {what} {loss:.4}, perplexity {:.2} ({counted})",
            loss.exp()
        );
    }
    let metrics: Vec<String> = eval
        .metrics
        .iter()
        .map(|(name, value)| format!("{} {value:.4}", name.replace('_', " ")))
        .collect();
    format!(
        "step {step}: {what} {loss:.4}, {} ({:.1} s)",
        metrics.join(", "),
        eval.seconds
    )
}

impl Observer for Terminal {
    fn observe(&mut self, record: &Record) -> flametune_train::Result<()> {
        self.tell(&record.event);
        Ok(())
    }

    /// What was said before is not said again.
    fn resume(&mut self, earlier: &[Record], _step: usize) -> flametune_train::Result<()> {
        for record in earlier {
            match &record.event {
                Event::Started(_) | Event::Resumed(_) => self.tell(&record.event),
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evaluations_are_told_in_one_line() {
        let mut eval = Evaluation {
            name: Evaluation::OWN.to_owned(),
            step: 4,
            loss: 2.0,
            supervised_tokens: 10,
            seconds: 0.25,
            metrics: [].into(),
        };
        assert_eq!(
            evaluation(&eval),
            "step 4: validation loss 2.0000, perplexity 7.39 (10 tokens, 0.2 s)"
        );
        eval.metrics = [("accuracy".to_owned(), 0.5), ("macro_f1".to_owned(), 0.25)].into();
        assert_eq!(
            evaluation(&eval),
            "step 4: validation loss 2.0000, accuracy 0.5000, macro f1 0.2500 (0.2 s)"
        );
    }
}
