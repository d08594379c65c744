//! The report of a run: one HTML file that needs nothing else.

mod plot;

use std::fs;
use std::path::{Path, PathBuf};

use askama::Template;

use super::memory::Bytes;
use super::progress::Seconds;
use super::store::flatten;
use super::{Evaluation, Event, History, Observer, Record, Status, io};
use crate::error::Result;

use plot::{Plot, Series};

/// Rewrites the HTML report with every evaluation and at the end.
///
/// The file appears as a whole: it is written under another name and renamed.
#[derive(Debug)]
pub struct HtmlReport {
    path: PathBuf,
    history: History,
}

impl HtmlReport {
    /// Will write `path`.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            history: History::default(),
        }
    }

    fn write(&self) -> Result<()> {
        let unfinished = self.path.with_extension("html.unfinished");
        let html = render(&self.history)?;
        fs::write(&unfinished, html).map_err(io(&unfinished))?;
        fs::rename(&unfinished, &self.path).map_err(io(&self.path))
    }
}

impl Observer for HtmlReport {
    fn observe(&mut self, record: &Record) -> Result<()> {
        self.history.observe(record);
        match &record.event {
            Event::Eval(_) | Event::Finished(_) => self.write(),
            _ => Ok(()),
        }
    }

    fn resume(&mut self, earlier: &[Record], _step: usize) -> Result<()> {
        earlier
            .iter()
            .for_each(|record| self.history.observe(record));
        Ok(())
    }
}

/// A row of a table.
struct Row {
    name: String,
    value: String,
}

/// What the model answered to a prompt before the run, and what it answers at the end.
struct Answers<'a> {
    prompt: &'a str,
    before: &'a str,
    after: Option<&'a str>,
    step: usize,
}

#[derive(Template)]
#[template(path = "report.html")]
struct Page<'a> {
    title: &'a str,
    status: Status,
    reason: &'a str,
    results: Vec<Row>,
    plots: Vec<String>,
    answers: Vec<Answers<'a>>,
    warnings: &'a [super::Note],
    facts: Vec<Row>,
    config: Vec<Row>,
    environment: Vec<Row>,
}

/// The report of a run as HTML: plots as SVG inside of it, everything from outside escaped.
///
/// # Errors
/// [`Error::Report`](crate::Error::Report), which only a broken template causes.
pub fn render(history: &History) -> Result<String> {
    let nothing = super::RunDescription::default();
    let description = history.description.as_ref().unwrap_or(&nothing);
    let row = |name: &str, value: String| Row {
        name: name.to_owned(),
        value,
    };
    let outcome = history.outcome.as_ref();
    let page = Page {
        title: match description.name.as_str() {
            "" => "run",
            name => name,
        },
        status: outcome.map_or(Status::Running, |outcome| outcome.status),
        reason: outcome
            .and_then(|outcome| outcome.reason.as_deref())
            .unwrap_or(""),
        results: results(history),
        plots: plots(history),
        answers: answers(history),
        warnings: &history.warnings,
        facts: facts(description),
        config: flatten(&description.config)
            .into_iter()
            .map(|(name, value)| Row { name, value })
            .collect(),
        environment: description
            .environment
            .iter()
            .map(|(name, value)| row(name, value.clone()))
            .collect(),
    };
    page.render().map_err(crate::Error::Report)
}

fn results(history: &History) -> Vec<Row> {
    let metrics = history.summary.metrics();
    let row = |(name, value): (String, f64)| {
        let value = match name.as_str() {
            "memory/peak_bytes" => history
                .steps
                .iter()
                .filter_map(|step| step.memory)
                .map(|memory| memory.peak_bytes)
                .max()
                .map_or_else(String::new, |peak| Bytes(peak).to_string()),
            "seconds" => Seconds(value).to_string(),
            name if name.ends_with("loss") => format!("{value:.4}"),
            _ if value.abs() <= 1.0 && value.fract() != 0.0 => format!("{value:.4}"),
            _ => format!("{value:.0}"),
        };
        let name = match name.as_str() {
            "seconds" => "training time".to_owned(),
            "memory/peak_bytes" => "peak memory".to_owned(),
            _ => name,
        };
        Row { name, value }
    };
    metrics.into_iter().map(row).collect()
}

fn facts(description: &super::RunDescription) -> Vec<Row> {
    let super::RunDescription {
        model,
        adapter,
        data,
        ..
    } = description;
    let share = 100.0 * adapter.trainable as f64 / adapter.total.max(1) as f64;
    [
        ("model", model.name.clone()),
        ("architecture", model.architecture.clone()),
        ("weights", model.storage.clone()),
        ("method", adapter.method.clone()),
        (
            "trainable parameters",
            format!("{} of {} ({share:.3} %)", adapter.trainable, adapter.total),
        ),
        (
            "trainable memory",
            Bytes(adapter.trainable_bytes as u64).to_string(),
        ),
        ("base memory", Bytes(adapter.base_bytes as u64).to_string()),
        ("data", data.source.clone()),
        ("data digest", data.digest.clone()),
        ("examples", data.examples.to_string()),
        ("folder", description.folder.clone()),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .map(|(name, value)| Row {
        name: name.to_owned(),
        value,
    })
    .collect()
}

/// The first and the last answer to each prompt.
fn answers(history: &History) -> Vec<Answers<'_>> {
    let mut answers: Vec<Answers<'_>> = Vec::new();
    for sample in &history.samples {
        match answers.iter_mut().find(|a| a.prompt == sample.prompt) {
            Some(answers) => {
                (answers.after, answers.step) = (Some(sample.text.as_str()), sample.step)
            }
            None => answers.push(Answers {
                prompt: &sample.prompt,
                before: &sample.text,
                after: None,
                step: sample.step,
            }),
        }
    }
    answers
}

fn plots(history: &History) -> Vec<String> {
    let of = |value: fn(&super::TrainedStep) -> f64| -> Vec<(f64, f64)> {
        let point = |step: &super::TrainedStep| (step.report.step as f64, value(step));
        history.steps.iter().map(point).collect()
    };
    let losses = of(|step| step.report.loss);
    let mut loss = vec![
        Series::new("train", "#c9d7e8", losses.clone()),
        Series::new("train, smoothed", "#1f5fa8", plot::smoothed(&losses)),
    ];
    let mut names: Vec<&str> = history
        .evaluations
        .iter()
        .map(|e| e.name.as_str())
        .collect();
    names.sort_unstable();
    names.dedup();
    for (name, color) in names
        .into_iter()
        .zip(["#d1591f", "#2f8f4e", "#8a3fa0", "#7a6a00"])
    {
        let point = |eval: &Evaluation| (eval.step as f64, eval.loss);
        loss.push(Series::new(
            name,
            color,
            history.evaluations_on(name).map(point).collect(),
        ));
    }
    let one = |values| vec![Series::new("", "#1f5fa8", values)];
    let plots = [
        ("Loss", "loss", loss),
        (
            "Learning rate",
            "learning rate",
            one(of(|s| s.report.learning_rate)),
        ),
        (
            "Gradient norm",
            "norm before clipping",
            one(of(|s| s.report.grad_norm)),
        ),
        (
            "Throughput",
            "tokens/s",
            one(of(super::TrainedStep::tokens_per_second)),
        ),
    ];
    plots
        .into_iter()
        .chain(measured(history))
        .enumerate()
        .filter_map(|(id, (title, y_label, series))| {
            Plot {
                id,
                title,
                y_label,
                series,
            }
            .svg()
        })
        .collect()
}

/// A plot of what evaluations measured beside the loss, if they did.
fn measured(history: &History) -> Option<(&'static str, &'static str, Vec<Series>)> {
    let mut names: Vec<&String> = history
        .evaluations
        .iter()
        .flat_map(|eval| eval.metrics.keys())
        .collect();
    names.sort_unstable();
    names.dedup();
    let series: Vec<Series> = names
        .into_iter()
        .zip(["#2f8f4e", "#8a3fa0", "#d1591f", "#7a6a00"])
        .map(|(name, color)| {
            let point = |eval: &Evaluation| Some((eval.step as f64, *eval.metrics.get(name)?));
            let points = history.evaluations.iter().filter_map(point);
            Series::new(name, color, points.collect())
        })
        .collect();
    (!series.is_empty()).then_some(("Scores", "score", series))
}

#[cfg(test)]
mod tests;
