//! `record.jsonl`, one event a line, and lines on the terminal.

use std::fs::{self, File};
use std::io::{self, Write, stderr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use flametune_train::fit::{FitEnd, FitObserver, FitStart};
use flametune_train::{Error, EvalReport, StepReport};
use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Time between lines on the terminal.
const QUIET: Duration = Duration::from_secs(10);

/// Numbers that a line has room for, in this order.
const SHOWN: [(&str, &str); 7] = [
    ("rewards/accuracies", "accuracy"),
    ("rewards/margins", "margin"),
    ("accuracy", "accuracy"),
    ("margin", "margin"),
    ("objective/scores", "score"),
    ("objective/kl", "KL"),
    ("kl", "KL"),
];

/// Writes to standard output.
pub(super) fn print(text: &str) -> Result<()> {
    writeln!(io::stdout(), "{}", text.trim_end()).context("cannot write to standard output")
}

/// Tells something on standard error.
pub(super) fn note(text: &str) {
    // Nothing can be done when even this cannot be written.
    let _ = writeln!(stderr(), "{text}");
}

/// A flag that is set when the user or the system asks this process to end; a second time ends it.
pub(super) fn stop_on_interrupt() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))
            .and_then(|_| flag::register(signal, Arc::clone(&stop)))
            .context("cannot listen for Ctrl-C")?;
    }
    Ok(stop)
}

/// Writes events down as they happen.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
    max_steps: usize,
    said: Option<Instant>,
    /// What the last iteration of an online method came to.
    latest: Vec<(&'static str, f64)>,
}

impl Log {
    /// Begins a log, or goes on with one after `step`: what came later will happen again.
    pub(super) fn open(path: &Path, step: usize) -> Result<Self> {
        let earlier = if step == 0 {
            Vec::new()
        } else {
            earlier(path, step)?
        };
        let write = || {
            let mut file = File::create(path)?;
            for event in &earlier {
                writeln!(file, "{event}")?;
            }
            Ok::<_, io::Error>(file)
        };
        let file = write().with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            max_steps: 0,
            said: None,
            latest: Vec::new(),
        })
    }

    fn write(&mut self, event: &str, mut fields: Value) -> flametune_train::Result<()> {
        fields["event"] = event.into();
        writeln!(self.file, "{fields}").map_err(|source| Error::Io {
            path: self.path.clone(),
            source,
        })
    }
}

/// The events of a log up to `step`.
fn earlier(path: &Path, step: usize) -> Result<Vec<Value>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        text => text.with_context(|| format!("cannot read {}", path.display()))?,
    };
    // The last line of a killed run may be cut.
    let events = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let is_earlier = |event: &Value| {
        let at = event["step"].as_u64();
        at.and_then(|at| usize::try_from(at).ok())
            .is_some_and(|at| at <= step)
    };
    Ok(events.filter(is_earlier).collect())
}

impl FitObserver for Log {
    fn on_start(&mut self, start: &FitStart) -> flametune_train::Result<()> {
        self.max_steps = start.max_steps;
        if start.step > 0 {
            note(&format!("going on after step {}", start.step));
        }
        let fields = json!({ "step": start.step, "max_steps": start.max_steps });
        self.write("started", fields)
    }

    fn on_step(&mut self, report: &StepReport) -> flametune_train::Result<()> {
        let mut found: Vec<(&str, f64)> = Vec::new();
        for (name, label) in SHOWN {
            let is_new = found.iter().all(|(known, _)| *known != label);
            if let (Some(value), true) = (report.metrics.get(name), is_new) {
                found.push((label, *value));
            }
        }
        if !found.is_empty() {
            self.latest = found;
        }
        let is_last = report.step == self.max_steps;
        if is_last || self.said.is_none_or(|said| said.elapsed() > QUIET) {
            self.said = Some(Instant::now());
            let parts: String = self
                .latest
                .iter()
                .map(|(label, value)| format!(", {label} {value:.3}"))
                .collect();
            note(&format!(
                "step {} of {}: loss {:.4}{parts} ({:.1} s)",
                report.step, self.max_steps, report.loss, report.seconds
            ));
        }
        self.write("step", json!(report))
    }

    fn on_eval(&mut self, report: &EvalReport) -> flametune_train::Result<()> {
        let accuracy = ["rewards/accuracies", "accuracy"]
            .iter()
            .find_map(|name| report.metrics.get(*name));
        let accuracy = accuracy.map_or(String::new(), |a| format!(", accuracy {a:.3}"));
        note(&format!(
            "step {}: validation loss {:.4}{accuracy}",
            report.step, report.loss
        ));
        self.write("eval", json!(report))
    }

    fn on_checkpoint(&mut self, step: usize, path: &Path) -> flametune_train::Result<()> {
        self.write("checkpoint", json!({ "step": step, "path": path }))
    }

    fn on_warning(&mut self, step: usize, text: &str) -> flametune_train::Result<()> {
        note(&format!("warning at step {step}: {text}"));
        self.write("warning", json!({ "step": step, "text": text }))
    }

    fn on_finish(&mut self, end: &FitEnd) -> flametune_train::Result<()> {
        self.write("finished", json!({ "step": end.step }))
    }
}
