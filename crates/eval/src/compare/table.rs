//! Tables for terminals.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use super::Comparison;
use crate::harness::{Evaluation, MetricResult};

fn table(header: &[&str], numbers_from: usize) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header);
    for column in table.column_iter_mut().skip(numbers_from) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn score(metric: &MetricResult) -> String {
    match metric.stderr {
        Some(stderr) => format!("{:.4} ± {stderr:.4}", metric.value),
        None => format!("{:.4}", metric.value),
    }
}

/// All scores of one evaluation: task, version, filter, shots, metric, value with standard error.
#[must_use]
pub fn results_table(evaluation: &Evaluation) -> String {
    let mut table = table(
        &[
            "task", "version", "filter", "n-shot", "n", "metric", "", "value",
        ],
        3,
    );
    let arrow = |metric: &MetricResult| {
        if metric.higher_is_better {
            "↑"
        } else {
            "↓"
        }
    };
    let version = |value: &serde_json::Value| crate::python::python_str(value);
    for task in &evaluation.tasks {
        for metric in &task.metrics {
            table.add_row(vec![
                task.name.clone(),
                version(&task.version),
                metric.filter.clone(),
                task.num_fewshot.to_string(),
                task.effective.to_string(),
                metric.metric.clone(),
                arrow(metric).to_owned(),
                score(metric),
            ]);
        }
    }
    for group in &evaluation.groups {
        for metric in &group.metrics {
            table.add_row(vec![
                format!("{} (group)", group.name),
                version(&group.version),
                metric.filter.clone(),
                String::new(),
                group.sample_len.to_string(),
                metric.metric.clone(),
                arrow(metric).to_owned(),
                score(metric),
            ]);
        }
    }
    table.to_string()
}

/// Base against candidate: scores, difference with its interval, p-value after correction, verdict.
#[must_use]
pub fn comparison_table(comparison: &Comparison) -> String {
    let header = [
        "task",
        "metric",
        "n",
        &comparison.base,
        &comparison.candidate,
        "Δ",
        "95 %",
        "p",
        "verdict",
    ];
    let mut table = table(&header, 2);
    for row in &comparison.rows {
        let interval = match row.paired.filter(|_| row.interval_is_of_delta) {
            Some(paired) => format!("{:+.4} … {:+.4}", paired.interval.low, paired.interval.high),
            None => "–".to_owned(),
        };
        table.add_row(vec![
            row.task.clone(),
            row.key(),
            row.n.to_string(),
            score(&row.base),
            score(&row.candidate),
            format!("{:+.4}", row.delta),
            interval,
            row.adjusted_p.map_or("–".to_owned(), |p| format!("{p:.4}")),
            row.verdict.word().to_owned(),
        ]);
    }
    let mut text = table.to_string();
    for row in &comparison.rows {
        if let Some(hint) = row.power.filter(|hint| !hint.is_enough()) {
            text.push_str(&format!("\n{} {}: {hint}", row.task, row.key()));
        }
    }
    text
}
