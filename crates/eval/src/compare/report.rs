//! An HTML page with tables and plots that stands alone: no scripts, no other files.

use askama::Template;
use kuva::backend::svg::SvgBackend;
use kuva::plot::{ForestPlot, LinePlot, ScatterPlot};
use kuva::render::layout::Layout;
use kuva::render::plots::Plot;
use kuva::render::render::render_multiple;

use super::{Comparison, Verdict, forgetting, task_calibration};
use crate::error::{Error, Result};
use crate::harness::{Evaluation, MetricResult};

/// Ranges of the reliability diagrams.
const BINS: usize = 10;

/// What a report shows.
#[derive(Debug)]
pub struct ReportPage<'e> {
    /// Its heading.
    pub title: &'e str,
    /// What was run, such as the command.
    pub subtitle: &'e str,
    /// Evaluations with their names, the base first.
    pub evaluations: &'e [(String, Evaluation)],
    /// Comparisons with the base.
    pub comparisons: &'e [Comparison],
}

#[derive(Template)]
#[template(path = "report.html")]
struct Page<'e> {
    title: &'e str,
    subtitle: &'e str,
    evaluations: Vec<ScoreTable<'e>>,
    comparisons: Vec<ComparisonTable<'e>>,
}

struct ScoreTable<'e> {
    name: &'e str,
    rows: Vec<[String; 6]>,
    warnings: &'e [String],
    calibration: Vec<(String, String, String)>,
}

struct ComparisonTable<'e> {
    base: &'e str,
    candidate: &'e str,
    plot: Option<String>,
    rows: Vec<ComparisonLine>,
    hints: Vec<String>,
    forgetting: String,
}

struct ComparisonLine {
    class: &'static str,
    cells: [String; 9],
}

/// Writes the page.
///
/// # Errors
/// [`Error::Report`] when the template cannot be rendered.
pub fn html_report(page: &ReportPage<'_>) -> Result<String> {
    let template = Page {
        title: page.title,
        subtitle: page.subtitle,
        evaluations: page.evaluations.iter().map(scores).collect(),
        comparisons: page.comparisons.iter().map(comparison).collect(),
    };
    template.render().map_err(|error| Error::Report {
        what: "report",
        reason: error.to_string(),
    })
}

fn value(metric: &MetricResult) -> String {
    match metric.stderr {
        Some(stderr) => format!("{:.4} ± {stderr:.4}", metric.value),
        None => format!("{:.4}", metric.value),
    }
}

fn scores((name, evaluation): &(String, Evaluation)) -> ScoreTable<'_> {
    let mut rows = Vec::new();
    let arrow = |metric: &MetricResult| {
        if metric.higher_is_better {
            "↑"
        } else {
            "↓"
        }
    };
    for task in &evaluation.tasks {
        for metric in &task.metrics {
            rows.push([
                task.name.clone(),
                task.num_fewshot.to_string(),
                task.effective.to_string(),
                metric.key(),
                arrow(metric).to_owned(),
                value(metric),
            ]);
        }
    }
    for group in &evaluation.groups {
        for metric in &group.metrics {
            rows.push([
                format!("{} (group)", group.name),
                String::new(),
                group.sample_len.to_string(),
                metric.key(),
                arrow(metric).to_owned(),
                value(metric),
            ]);
        }
    }
    let calibration = evaluation
        .tasks
        .iter()
        .filter_map(|task| {
            let calibration = task_calibration(task, BINS)?;
            let error = format!("{:.4}", calibration.expected_error);
            Some((
                task.name.clone(),
                error,
                reliability(&task.name, &calibration),
            ))
        })
        .collect();
    ScoreTable {
        name,
        rows,
        warnings: &evaluation.warnings,
        calibration,
    }
}

fn reliability(task: &str, calibration: &crate::metrics::Calibration) -> String {
    let points: Vec<(f64, f64)> = calibration
        .bins
        .iter()
        .filter(|bin| bin.count > 0)
        .map(|bin| (bin.confidence, bin.accuracy))
        .collect();
    let plots: Vec<Plot> = vec![
        Plot::Line(
            LinePlot::new()
                .with_data(vec![(0.0, 0.0), (1.0, 1.0)])
                .with_color("lightgray")
                .with_dashed(),
        ),
        Plot::Line(
            LinePlot::new()
                .with_data(points.clone())
                .with_color("steelblue"),
        ),
        // A line through one point is none.
        Plot::Scatter(
            ScatterPlot::new()
                .with_data(points)
                .with_color("steelblue")
                .with_size(3.0),
        ),
    ];
    let layout = Layout::auto_from_plots(&plots)
        .with_title(task)
        .with_x_label("confidence")
        .with_y_label("accuracy")
        .with_width(320.0)
        .with_height(280.0);
    SvgBackend::new().render_scene(&render_multiple(plots, layout))
}

fn comparison(comparison: &Comparison) -> ComparisonTable<'_> {
    let sum = forgetting(comparison);
    let worst = match &sum.worst {
        None => "no task lost".to_owned(),
        Some((task, metric, gain)) => format!("the most was lost on {task} ({metric}): {gain:+.4}"),
    };
    let lost = match sum.lost.as_slice() {
        [] => "none is worse beyond chance".to_owned(),
        lost => format!(
            "worse beyond chance: {}",
            lost.iter()
                .map(|(task, metric)| format!("{task} ({metric})"))
                .collect::<Vec<_>>()
                .join(", ")
        ),
    };
    ComparisonTable {
        base: &comparison.base,
        candidate: &comparison.candidate,
        plot: forest(comparison),
        rows: comparison
            .rows
            .iter()
            .map(|row| {
                let interval = match row.paired.filter(|_| row.interval_is_of_delta) {
                    Some(paired) => {
                        format!("{:+.4} … {:+.4}", paired.interval.low, paired.interval.high)
                    }
                    None => "–".to_owned(),
                };
                ComparisonLine {
                    class: match row.verdict {
                        Verdict::Better => "better",
                        Verdict::Worse => "worse",
                        Verdict::NotShown | Verdict::Untested => "",
                    },
                    cells: [
                        row.task.clone(),
                        row.key(),
                        row.n.to_string(),
                        value(&row.base),
                        value(&row.candidate),
                        format!("{:+.4}", row.delta),
                        interval,
                        row.adjusted_p.map_or("–".to_owned(), |p| format!("{p:.4}")),
                        row.verdict.word().to_owned(),
                    ],
                }
            })
            .collect(),
        hints: comparison
            .rows
            .iter()
            .filter_map(|row| {
                let hint = row.power.filter(|hint| !hint.is_enough())?;
                Some(format!("{} {}: {hint}", row.task, row.key()))
            })
            .collect(),
        forgetting: format!(
            "Mean gain over rates {:+.4}; {worst}; {lost}.",
            sum.mean_gain
        ),
    }
}

/// Differences with their intervals, a row a metric that has one.
fn forest(comparison: &Comparison) -> Option<String> {
    let mut plot = ForestPlot::new().with_null_value(0.0);
    let mut rows = 0;
    for row in comparison
        .rows
        .iter()
        .filter(|row| row.interval_is_of_delta)
    {
        let Some(paired) = row.paired else { continue };
        let colour = match row.verdict {
            Verdict::Better => "seagreen",
            Verdict::Worse => "firebrick",
            Verdict::NotShown | Verdict::Untested => "slategray",
        };
        let label = format!("{} {}", row.task, row.base.metric);
        plot = plot.with_colored_row(
            label,
            row.delta,
            paired.interval.low,
            paired.interval.high,
            colour,
        );
        rows += 1;
    }
    if rows == 0 {
        return None;
    }
    let plots = vec![Plot::Forest(plot)];
    let layout = Layout::auto_from_plots(&plots)
        .with_title(format!("{} − {}", comparison.candidate, comparison.base))
        .with_x_label("difference, 95 % interval");
    Some(SvgBackend::new().render_scene(&render_multiple(plots, layout)))
}
