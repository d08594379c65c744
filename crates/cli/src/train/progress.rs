//! The progress of a run on the terminal.

use std::io::{IsTerminal, stderr};
use std::path::Path;
use std::time::{Duration, Instant};

use flametune_train::fit::{Answer, FitEnd, FitObserver, FitStart};
use flametune_train::record::Memory;
use flametune_train::{EvalReport, Result, StepReport};
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Steps that speed and remaining time are judged by, as the weight of the newest.
const NEWEST: f64 = 0.1;

/// Time between lines where there is no terminal.
const QUIET: Duration = Duration::from_secs(10);

/// A bar with loss, speed, remaining time and memory; lines where there is no terminal.
#[derive(Debug)]
pub(crate) struct Bar {
    bar: ProgressBar,
    terminal: bool,
    max_steps: usize,
    /// Moving averages of seconds and tokens a step, and of the loss.
    seconds: f64,
    tokens: f64,
    loss: f64,
    said: Option<Instant>,
}

impl Bar {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len}  {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self {
            bar,
            terminal: stderr().is_terminal(),
            max_steps: 0,
            seconds: 0.0,
            tokens: 0.0,
            loss: 0.0,
            said: None,
        }
    }

    fn say(&self, line: &str) {
        self.bar.suspend(|| {
            // A terminal that is gone is no reason to stop training.
            let _ = std::io::Write::write_all(&mut stderr(), format!("{line}\n").as_bytes());
        });
    }

    fn line(&self, step: usize) -> String {
        let left = self.seconds * (self.max_steps.saturating_sub(step)) as f64;
        let memory = Memory::now().map_or_else(String::new, |memory| {
            format!("  {}", HumanBytes(memory.rss_bytes))
        });
        format!(
            "loss {:.4}  {:.0} tok/s  {} left{memory}",
            self.loss,
            self.tokens / self.seconds.max(1e-9),
            HumanDuration(Duration::from_secs_f64(left.clamp(0.0, 1e9))),
        )
    }
}

fn moved(old: f64, new: f64, first: bool) -> f64 {
    if first {
        new
    } else {
        old + NEWEST * (new - old)
    }
}

impl FitObserver for Bar {
    fn on_start(&mut self, start: &FitStart) -> Result<()> {
        self.max_steps = start.max_steps;
        self.bar.set_length(start.max_steps as u64);
        self.bar.set_position(start.step as u64);
        if self.terminal {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        let from = match start.step {
            0 => String::new(),
            step => format!(", going on after step {step}"),
        };
        self.say(&format!(
            "{} steps, {} an epoch{from}",
            start.max_steps, start.steps_per_epoch
        ));
        Ok(())
    }

    fn on_step(&mut self, report: &StepReport) -> Result<()> {
        let first = self.seconds == 0.0;
        self.seconds = moved(self.seconds, report.seconds, first);
        self.tokens = moved(self.tokens, report.tokens as f64, first);
        self.loss = moved(self.loss, report.loss, first);
        let line = self.line(report.step);
        self.bar.set_position(report.step as u64);
        if self.terminal {
            self.bar.set_message(line);
        } else if self.said.is_none_or(|said| said.elapsed() > QUIET) {
            self.said = Some(Instant::now());
            self.say(&format!("step {}/{}  {line}", report.step, self.max_steps));
        }
        Ok(())
    }

    fn on_eval(&mut self, report: &EvalReport) -> Result<()> {
        self.say(&format!(
            "step {}: validation loss {:.4}, perplexity {:.2} ({} tokens, {:.1} s)",
            report.step,
            report.loss,
            report.perplexity(),
            report.supervised_tokens,
            report.seconds
        ));
        Ok(())
    }

    fn on_sample(&mut self, step: usize, answer: &Answer) -> Result<()> {
        let text = answer.text.trim().replace('\n', "\n    ");
        self.say(&format!("step {step}: {}\n    {text}", answer.prompt));
        Ok(())
    }

    fn on_checkpoint(&mut self, step: usize, path: &Path) -> Result<()> {
        self.say(&format!("step {step}: saved {}", path.display()));
        Ok(())
    }

    fn on_warning(&mut self, step: usize, text: &str) -> Result<()> {
        self.say(&format!("warning at step {step}: {text}"));
        Ok(())
    }

    fn on_finish(&mut self, _end: &FitEnd) -> Result<()> {
        self.bar.finish_and_clear();
        Ok(())
    }
}
