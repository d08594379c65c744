//! A base against its adapters: the same documents, item by item.

mod calibrated;
mod forgetting;
mod gate;
mod report;
mod table;

use crate::error::{Error, Result};
use crate::harness::{Evaluation, MetricResult, TaskResult};
use crate::stats::{PairedComparison, PowerHint, compare_paired, power_hint, sample_stddev};

pub use calibrated::task_calibration;
pub use forgetting::{Forgetting, forgetting};
pub use gate::{Gate, GateCheck, GateRule, GateVerdict};
pub use report::{ReportPage, html_report};
pub use table::{comparison_table, results_table};

/// Resamples of intervals and of p-values that are not exact.
const RESAMPLES: usize = 10_000;
/// Differences beyond chance: the error rate over all rows of a comparison together.
const ALPHA: f64 = 0.05;
/// The difference that power hints ask about: two points.
const WANTED: f64 = 0.02;

/// What a difference amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The candidate is better, beyond chance.
    Better,
    /// The candidate is worse, beyond chance.
    Worse,
    /// Chance explains the difference.
    NotShown,
    /// The metric gives no number a document, so there is no test.
    Untested,
}

impl Verdict {
    /// A word for tables.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::NotShown => "not shown",
            Self::Untested => "untested",
        }
    }
}

/// One metric of one task, base against candidate.
#[derive(Debug, Clone, PartialEq)]
pub struct ComparisonRow {
    /// The task.
    pub task: String,
    /// The base's score.
    pub base: MetricResult,
    /// The candidate's score.
    pub candidate: MetricResult,
    /// Documents.
    pub n: usize,
    /// `candidate − base`.
    pub delta: f64,
    /// The test over documents; for perplexities over the loss a word or byte.
    pub paired: Option<PairedComparison>,
    /// Whether `paired` measures the metric itself, so that its interval is one of `delta`.
    pub interval_is_of_delta: bool,
    /// The p-value after Holm's correction over all rows.
    pub adjusted_p: Option<f64>,
    /// What it amounts to, by `adjusted_p`.
    pub verdict: Verdict,
    /// What so many documents can show.
    pub power: Option<PowerHint>,
}

impl ComparisonRow {
    /// The metric's key, such as `acc,none`.
    #[must_use]
    pub fn key(&self) -> String {
        self.base.key()
    }

    /// How much better the candidate is, whichever way the metric points.
    #[must_use]
    pub fn gain(&self) -> f64 {
        if self.base.higher_is_better {
            self.delta
        } else {
            -self.delta
        }
    }
}

/// A candidate's scores beside the base's.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// What the base is called.
    pub base: String,
    /// What the candidate is called.
    pub candidate: String,
    /// Tasks and metrics, in the base's order.
    pub rows: Vec<ComparisonRow>,
}

/// Compares two evaluations of the same tasks on the same documents.
///
/// # Errors
/// [`Error::Incomparable`] when a task of the base is missing, or its documents are others.
///
/// # Source
/// Holm 1979, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6(2)
pub fn compare(
    base: (&str, &Evaluation),
    candidate: (&str, &Evaluation),
    seed: u64,
) -> Result<Comparison> {
    let mut rows = Vec::new();
    for task in &base.1.tasks {
        let other = candidate
            .1
            .task(&task.name)
            .ok_or_else(|| Error::Incomparable {
                task: task.name.clone(),
                reason: format!("{} was not evaluated on it", candidate.0),
            })?;
        same_documents(task, other)?;
        for metric in &task.metrics {
            if let Some(other_metric) = other.metric(&metric.key()) {
                rows.push(row((task, metric), (other, other_metric), seed));
            }
        }
    }
    settle(&mut rows);
    Ok(Comparison {
        base: base.0.to_owned(),
        candidate: candidate.0.to_owned(),
        rows,
    })
}

fn same_documents(a: &TaskResult, b: &TaskResult) -> Result<()> {
    let different = |reason: String| Error::Incomparable {
        task: a.name.clone(),
        reason,
    };
    if a.samples.len() != b.samples.len() {
        return Err(different(format!(
            "{} documents against {}",
            a.effective, b.effective
        )));
    }
    let odd = a
        .samples
        .iter()
        .zip(&b.samples)
        .find(|(a, b)| a.doc != b.doc);
    match odd {
        None => Ok(()),
        Some((a, _)) => Err(different(format!("document {} is not the same", a.doc_id))),
    }
}

fn row(
    base: (&TaskResult, &MetricResult),
    candidate: (&TaskResult, &MetricResult),
    seed: u64,
) -> ComparisonRow {
    let numbers = |(task, metric): (&TaskResult, &MetricResult)| -> Option<Vec<f64>> {
        Some(
            task.per_document(metric)?
                .into_iter()
                .map(|(_, number)| number)
                .collect(),
        )
    };
    let (first, second) = (numbers(base), numbers(candidate));
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    // Where the metric is the mean of the numbers, their interval is that of the difference.
    let interval_is_of_delta = first
        .as_deref()
        .is_some_and(|values| (mean(values) - base.1.value).abs() <= 1e-9);
    let pairs = first.zip(second);
    let paired = pairs
        .as_ref()
        .and_then(|(first, second)| compare_paired(first, second, RESAMPLES, seed));
    let power = pairs
        .filter(|_| interval_is_of_delta)
        .and_then(|(first, second)| {
            let differences: Vec<f64> = first.iter().zip(&second).map(|(a, b)| b - a).collect();
            power_hint(differences.len(), sample_stddev(&differences), WANTED)
        });
    ComparisonRow {
        task: base.0.name.clone(),
        base: base.1.clone(),
        candidate: candidate.1.clone(),
        n: base.0.effective,
        delta: candidate.1.value - base.1.value,
        paired,
        interval_is_of_delta,
        adjusted_p: None,
        verdict: Verdict::Untested,
        power,
    }
}

/// Corrects the p-values for their number, and says what each row amounts to.
fn settle(rows: &mut [ComparisonRow]) {
    let mut order: Vec<(usize, f64)> = rows
        .iter()
        .enumerate()
        .filter_map(|(at, row)| Some((at, row.paired?.p_value)))
        .collect();
    order.sort_by(|a, b| a.1.total_cmp(&b.1));
    let tests = order.len();
    let mut largest = 0.0_f64;
    for (rank, (at, p)) in order.into_iter().enumerate() {
        largest = largest.max((p * (tests - rank) as f64).min(1.0));
        let row = &mut rows[at];
        row.adjusted_p = Some(largest);
        let paired_gain = row.paired.map_or(0.0, |paired| paired.delta);
        // Numbers a document are losses where the metric is a perplexity.
        let higher = row.base.higher_is_better;
        row.verdict = match (largest < ALPHA, (paired_gain > 0.0) == higher) {
            (false, _) => Verdict::NotShown,
            (true, true) => Verdict::Better,
            (true, false) => Verdict::Worse,
        };
    }
}
