//! Results on disk.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use flametune_eval::Evaluation;
use flametune_eval::compare::{Comparison, ReportPage, html_report};
use serde_json::{Value, json};

/// Results of all models and their comparisons.
pub(crate) fn json(evaluations: &[(String, Evaluation)], comparisons: &[Comparison]) -> Value {
    let models: serde_json::Map<String, Value> = evaluations
        .iter()
        .map(|(name, evaluation)| (name.clone(), evaluation.to_json()))
        .collect();
    let comparisons: Vec<Value> = comparisons
        .iter()
        .map(|comparison| {
            let rows: Vec<Value> = comparison
                .rows
                .iter()
                .map(|row| {
                    json!({
                        "task": row.task,
                        "metric": row.key(),
                        "n": row.n,
                        "base": row.base.value,
                        "candidate": row.candidate.value,
                        "delta": row.delta,
                        "paired": row.paired,
                        "interval_is_of_delta": row.interval_is_of_delta,
                        "adjusted_p": row.adjusted_p,
                        "verdict": row.verdict,
                        "power": row.power,
                    })
                })
                .collect();
            json!({"base": comparison.base, "candidate": comparison.candidate, "rows": rows})
        })
        .collect();
    json!({"models": models, "comparisons": comparisons})
}

/// Writes `results.json`, one `results-NAME.json` in lm-eval's shape a model, and its samples.
pub(crate) fn write(
    folder: &Path,
    evaluations: &[(String, Evaluation)],
    comparisons: &[Comparison],
) -> Result<()> {
    fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let all = serde_json::to_string_pretty(&json(evaluations, comparisons))?;
    replace(&folder.join("results.json"), &all)?;
    for (name, evaluation) in evaluations {
        let plain: String = name
            .chars()
            .map(|c| {
                if c.is_alphanumeric() || "-_.".contains(c) {
                    c
                } else {
                    '_'
                }
            })
            .collect();
        let results = serde_json::to_string_pretty(&evaluation.to_json())?;
        replace(&folder.join(format!("results-{plain}.json")), &results)?;
        for task in &evaluation.tasks {
            let mut lines = String::new();
            for sample in evaluation.samples_json(task) {
                lines.push_str(&sample.to_string());
                lines.push('\n');
            }
            let task: String = task.name.replace([':', '/'], "_");
            replace(
                &folder.join(format!("samples-{plain}-{task}.jsonl")),
                &lines,
            )?;
        }
    }
    Ok(())
}

/// Writes the report with plots.
pub(crate) fn html(
    file: &Path,
    model: &str,
    evaluations: &[(String, Evaluation)],
    comparisons: &[Comparison],
) -> Result<()> {
    let page = html_report(&ReportPage {
        title: &format!("Evaluation of {model}"),
        subtitle: "Standard errors beside scores; differences over the same documents.",
        evaluations,
        comparisons,
    })?;
    replace(file, &page)
}

/// Writes a whole file or nothing.
pub(crate) fn replace(file: &Path, text: &str) -> Result<()> {
    let name = file
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let beside = file.with_file_name(format!(".{name}.part"));
    fs::write(&beside, text)
        .and_then(|()| fs::rename(&beside, file))
        .with_context(|| format!("cannot write {}", file.display()))
}
