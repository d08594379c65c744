//! Whether parameters move, and whether they move too fast or too slowly.

use super::loss::TREND_STEPS;
use super::series::Series;
use super::{Evidence, Finding, Kind, Severity};
use crate::record::History;

/// A gradient norm below which no gradient arrives.
const NO_GRADIENT: f64 = 1e-9;

/// Losses that agree to this share are the same.
const SAME: f64 = 1e-7;

/// Steps without which a constant loss or a rate of zero says nothing.
const CONSTANT_STEPS: usize = 5;

/// Steps that are compared before and after the learning rate's peak.
const AROUND_PEAK: usize = 10;

/// A relative rise of the loss around the peak that tells of a rate that is too high.
const RISE: f64 = 0.05;

/// How much the gradient norm grows when steps are too long.
const GROWTH: f64 = 5.0;

/// A relative fall of the loss over a run that is hardly one.
const HARDLY: f64 = 0.02;

/// Parameters did not move: no learning rate, no gradient, tensors of zeros, a constant loss.
pub(super) fn nothing_trained(history: &History) -> Vec<Finding> {
    let finding = |what: String, evidence, advice: &str| Finding {
        kind: Kind::NothingTrained,
        severity: Severity::Problem,
        what,
        evidence,
        advice: advice.to_owned(),
    };
    let mut findings = Vec::new();
    let enough = history.steps.len() >= CONSTANT_STEPS;
    if let Some(rates) = Series::learning_rates(history).whole()
        && rates.mean == 0.0
        && enough
    {
        let evidence = Evidence::over("learning rate", rates.steps, 0.0);
        findings.push(finding(
            "the learning rate was zero throughout".to_owned(),
            vec![evidence],
            "Check learning_rate and the schedule: a warm-up as long as the run never leaves zero.",
        ));
    }
    if let Some(norms) = Series::grad_norms(history).whole()
        && norms.median < NO_GRADIENT
    {
        let evidence = Evidence::over("median gradient norm", norms.steps, norms.median);
        findings.push(finding(
            "no gradient reaches the trained parameters".to_owned(),
            vec![evidence],
            "Check that the adapter is selected in the forward pass, that target_modules name \
             modules of this model, and that some tokens have labels.",
        ));
    }
    if let Some(zeros) = history.zeros.iter().rfind(|zeros| zeros.step > 0)
        && zeros.zero > 0
    {
        let step = zeros.step;
        let examples = zeros.examples.join(", ");
        findings.push(finding(
            format!(
                "{} of {} trained tensors are still zeros, such as {examples}",
                zeros.zero, zeros.trained
            ),
            vec![Evidence::at(
                "share of trained tensors that are zeros",
                step,
                zeros.zero as f64 / zeros.trained.max(1) as f64,
            )],
            "These modules take no part in the loss: leave them out of target_modules, or look for \
             the place where their gradient is lost.",
        ));
    }
    let losses = Series::losses(history);
    if let (Some(all), Some((_, largest))) = (losses.whole(), losses.largest())
        && enough
        && losses
            .points()
            .iter()
            .all(|(_, x)| largest - x <= SAME * largest.abs())
    {
        findings.push(finding(
            "the loss is the same in every step".to_owned(),
            vec![Evidence::over("loss", all.steps, all.mean)],
            "Every step sees the same batch, or the loss does not depend on the model.",
        ));
    }
    findings
}

/// The loss rose as the learning rate reached its peak, or gradients grew all along.
pub(super) fn too_high(history: &History) -> Vec<Finding> {
    let finding = |what: &str, evidence| Finding {
        kind: Kind::LearningRateTooHigh,
        severity: Severity::Warning,
        what: what.to_owned(),
        evidence,
        advice: "Halve the learning rate, or double the warm-up; LoRA usually works between 1e-4 \
                 and 5e-4, full fine-tuning between 5e-6 and 5e-5."
            .to_owned(),
    };
    let (losses, rates) = (Series::losses(history), Series::learning_rates(history));
    let mut findings = Vec::new();
    let peak = rates.largest().map_or(0.0, |(_, rate)| rate);
    let reached = rates.points().iter().find(|(_, rate)| *rate >= peak);
    if let Some(&(step, _)) = reached
        && step > 1
        && let (Some(before), Some(after)) = (
            losses.before(step - 1, AROUND_PEAK),
            losses.after(step - 1, AROUND_PEAK),
        )
        && after.mean - before.mean > RISE * before.mean.abs()
        && after.mean - before.mean > 3.0 * (before.error + after.error)
    {
        findings.push(finding(
            "the loss rose when the learning rate reached its peak",
            vec![
                Evidence::at("learning rate", step, peak),
                Evidence::over("mean loss", before.steps, before.mean),
                Evidence::over("mean loss", after.steps, after.mean),
            ],
        ));
    }
    if let (Some([first, .., last]), Some([early, .., late])) = (
        Series::grad_norms(history).quarters(TREND_STEPS),
        losses.quarters(TREND_STEPS),
    ) && last.median > GROWTH * first.median
        && first.median > NO_GRADIENT
        && late.mean > early.mean * (1.0 - HARDLY)
    {
        findings.push(finding(
            "gradients grew and the loss did not fall",
            vec![
                Evidence::over("median gradient norm", first.steps, first.median),
                Evidence::over("median gradient norm", last.steps, last.median),
                Evidence::over("mean loss", late.steps, late.mean),
            ],
        ));
    }
    findings
}

/// The loss fell steadily and hardly at all.
pub(super) fn too_low(history: &History) -> Vec<Finding> {
    let losses = Series::losses(history);
    let Some([first, second, third, last]) = losses.quarters(TREND_STEPS) else {
        return Vec::new();
    };
    let fall = first.mean - last.mean;
    let steady = first.mean > second.mean && second.mean > third.mean && third.mean > last.mean;
    if !steady || fall > HARDLY * first.mean.abs() || fall < 2.0 * (first.error + last.error) {
        return Vec::new();
    }
    let peak = Series::learning_rates(history).largest();
    let mut evidence = vec![
        Evidence::over("mean loss", first.steps, first.mean),
        Evidence::over("mean loss", last.steps, last.mean),
    ];
    evidence.extend(peak.map(|(step, rate)| Evidence::at("learning rate", step, rate)));
    vec![Finding {
        kind: Kind::LearningRateTooLow,
        severity: Severity::Warning,
        what: "the loss fell steadily, but hardly".to_owned(),
        evidence,
        advice: "Try three times the learning rate; if the loss then still falls steadily, again."
            .to_owned(),
    }]
}
