//! `record.jsonl`: what happened in a run, one event a line.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use flametune_train::fit::{Answer, Ended, FitEnd, FitObserver, FitStart};
use flametune_train::{Error, EvalReport, StepReport};
use serde_json::{Value, json};

/// Writes events down as they happen.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Begins a log; an old one is replaced.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        Self::go_on(path, &[])
    }

    /// Goes on with a log after what happened earlier.
    pub(crate) fn go_on(path: &Path, earlier: &[Value]) -> Result<Self> {
        let write = || {
            let mut file = File::create(path)?;
            for event in earlier {
                writeln!(file, "{event}")?;
            }
            Ok::<_, io::Error>(file)
        };
        let file = write().with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    fn write(&mut self, event: &str, mut fields: Value) -> flametune_train::Result<()> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        fields["time"] = since.map_or(0.0, |since| since.as_secs_f64()).into();
        fields["event"] = event.into();
        writeln!(self.file, "{fields}").map_err(|source| Error::Io {
            path: self.path.clone(),
            source,
        })
    }
}

/// The events of a log up to `step`: what came after it will happen again.
pub(crate) fn earlier(path: &Path, step: usize) -> Result<Vec<Value>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        text => text.with_context(|| format!("cannot read {}", path.display()))?,
    };
    // The last line of a killed run may be cut.
    let events = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let is_earlier = |event: &Value| {
        let at = event["step"]
            .as_u64()
            .and_then(|at| usize::try_from(at).ok());
        at.is_some_and(|at| at <= step)
    };
    Ok(events.filter(is_earlier).collect())
}

impl FitObserver for Log {
    fn on_start(&mut self, start: &FitStart) -> flametune_train::Result<()> {
        let name = if start.step == 0 {
            "started"
        } else {
            "resumed"
        };
        let fields = json!({
            "step": start.step,
            "max_steps": start.max_steps,
            "steps_per_epoch": start.steps_per_epoch,
        });
        self.write(name, fields)
    }

    fn on_step(&mut self, report: &StepReport) -> flametune_train::Result<()> {
        self.write("step", json!(report))
    }

    fn on_eval(&mut self, report: &EvalReport) -> flametune_train::Result<()> {
        self.write("eval", json!(report))
    }

    fn on_sample(&mut self, step: usize, answer: &Answer) -> flametune_train::Result<()> {
        let fields = json!({ "step": step, "prompt": answer.prompt, "text": answer.text });
        self.write("sample", fields)
    }

    fn on_checkpoint(&mut self, step: usize, path: &Path) -> flametune_train::Result<()> {
        self.write("checkpoint", json!({ "step": step, "path": path }))
    }

    fn on_warning(&mut self, step: usize, text: &str) -> flametune_train::Result<()> {
        self.write("warning", json!({ "step": step, "text": text }))
    }

    fn on_finish(&mut self, end: &FitEnd) -> flametune_train::Result<()> {
        let status = match end.ended {
            Ended::Finished => "finished",
            Ended::StoppedEarly => "stopped_early",
            Ended::Interrupted => "interrupted",
        };
        self.write("finished", json!({ "step": end.step, "status": status }))
    }
}
