//! What a run came to, for the terminal: everything is read from its record.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use flametune_train::record::{Evaluation, History, LOG, REPORT, Status};
use indicatif::{HumanBytes, HumanDuration};

use super::folder::RunFolder;

/// The figures and the samples of a run, as text.
pub(crate) fn text(folder: &RunFolder, result: &Path) -> Result<String> {
    let history = History::read(&folder.path().join(LOG))?;
    let mut text = String::new();
    let run = history.description.clone().unwrap_or_default();
    let _ = writeln!(text, "# {}\n", run.name);
    let mut row = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "- {name}: {value}");
    };
    row("model", run.model.name.clone());
    let (trainable, total) = (run.adapter.trainable, run.adapter.total);
    let share = 100.0 * trainable as f64 / total.max(1) as f64;
    row(
        "trained",
        format!("{trainable} of {total} parameters ({share:.3} %)"),
    );
    row("steps", steps(&history));
    evaluations(&history, &mut row);
    figures(&history, &mut row);
    row("result", result.display().to_string());
    row("report", folder.path().join(REPORT).display().to_string());
    samples(&history, &mut text);
    if !history.warnings.is_empty() {
        let _ = writeln!(text, "\n## Warnings\n");
        for warning in &history.warnings {
            let _ = writeln!(text, "- step {}: {}", warning.step, warning.text);
        }
    }
    Ok(text)
}

fn steps(history: &History) -> String {
    let taken = history.steps.len();
    match &history.outcome {
        Some(outcome) if outcome.status == Status::StoppedEarly => {
            format!("{taken}, stopped early")
        }
        _ => taken.to_string(),
    }
}

fn evaluations(history: &History, row: &mut impl FnMut(&str, String)) {
    let evals: Vec<&Evaluation> = history.evaluations_on(Evaluation::OWN).collect();
    let (Some(first), Some(last)) = (evals.first(), evals.last()) else {
        return;
    };
    let both = |of: &dyn Fn(&Evaluation) -> f64, digits: usize| {
        format!(
            "{:.digits$} before step {}, {:.digits$} after step {}",
            of(first),
            first.step + 1,
            of(last),
            last.step
        )
    };
    row("validation loss", both(&|eval| eval.loss, 4));
    for name in last.metrics.keys() {
        let value = |eval: &Evaluation| eval.metrics.get(name).copied().unwrap_or(f64::NAN);
        row(&name.replace('_', " "), both(&value, 4));
    }
    if last.metrics.is_empty() {
        row("perplexity", both(&|eval| eval.loss.exp(), 2));
    }
    let best = evals[1..]
        .iter()
        .min_by(|a, b| a.loss.total_cmp(&b.loss))
        .filter(|best| best.step != last.step);
    if let Some(best) = best {
        row("best", format!("{:.4} at step {}", best.loss, best.step));
    }
}

fn figures(history: &History, row: &mut impl FnMut(&str, String)) {
    let metrics = history.summary.metrics();
    let metric = |name: &str| metrics.get(name).copied();
    if let (Some(speed), Some(seconds)) = (metric("train/tokens_per_second"), metric("seconds")) {
        let time = HumanDuration(Duration::from_secs_f64(seconds.clamp(0.0, 1e12)));
        row("speed", format!("{speed:.0} tokens/s, {time} of training"));
    }
    let peaks = history.steps.iter().filter_map(|step| step.memory);
    if let Some(peak) = peaks.map(|memory| memory.peak_bytes).max() {
        row("peak memory", HumanBytes(peak).to_string());
    }
}

/// The first and the last answer to each prompt.
fn samples(history: &History, text: &mut String) {
    let quoted = |text: &str| text.trim().replace('\n', "\n> ");
    let mut prompts: Vec<&str> = Vec::new();
    for sample in &history.samples {
        if !prompts.contains(&sample.prompt.as_str()) {
            prompts.push(&sample.prompt);
        }
    }
    for prompt in prompts {
        let mut answers = history.samples.iter().filter(|s| s.prompt == prompt);
        let Some(before) = answers.next() else {
            continue;
        };
        let _ = writeln!(text, "\n## {prompt}\n");
        let _ = writeln!(
            text,
            "Step {}:\n\n> {}\n",
            before.step,
            quoted(&before.text)
        );
        if let Some(after) = answers.next_back() {
            let _ = writeln!(text, "Step {}:\n\n> {}", after.step, quoted(&after.text));
        }
    }
}
