//! The training loss: failures, divergence, spikes, plateaus.

use super::series::Series;
use super::{Evidence, Finding, Kind, Severity};
use crate::record::{History, Status};

/// Steps without which a trend is not looked for.
pub(super) const TREND_STEPS: usize = 40;

/// A relative change of the mean loss from one quarter to the next that counts as none.
const STANDSTILL: f64 = 0.005;

/// A relative change from one quarter to the next that counts as falling.
const FALLING: f64 = 0.02;

/// The share of the peak learning rate below which a run is expected to stand still.
const DECAYED: f64 = 0.1;

/// How far, relatively, the last quarter lies above the best for the loss to have diverged.
const DIVERGED: f64 = 0.2;

/// Spikes that are shown one by one.
const SHOWN: usize = 5;

/// The run ended with an error.
pub(super) fn failure(history: &History) -> Vec<Finding> {
    let Some(outcome) = &history.outcome else {
        return Vec::new();
    };
    if outcome.status != Status::Failed {
        return Vec::new();
    }
    let last = history.steps.iter().rev().take(3).rev();
    let evidence = last.flat_map(|step| {
        let report = &step.report;
        [
            Evidence::at("loss", report.step, report.loss),
            Evidence::at("gradient norm", report.step, report.grad_norm),
        ]
    });
    let reason = outcome.reason.as_deref().unwrap_or("no reason is recorded");
    vec![Finding {
        kind: Kind::Failed,
        severity: Severity::Problem,
        what: format!("the run failed after step {}: {reason}", outcome.step),
        evidence: evidence.collect(),
        advice: "If a loss or gradient was no number: look at the batch that the error names, lower \
                 the learning rate, lengthen the warm-up, clip gradients. Then resume from the last \
                 checkpoint."
            .to_owned(),
    }]
}

/// The last quarter's mean loss is far above that of the best quarter.
pub(super) fn divergence(history: &History) -> Vec<Finding> {
    let Some(quarters) = Series::losses(history).quarters(8) else {
        return Vec::new();
    };
    let best = quarters.iter().min_by(|a, b| a.mean.total_cmp(&b.mean));
    let (Some(best), [.., last]) = (best, &quarters) else {
        return Vec::new();
    };
    let above = last.mean - best.mean;
    if above < DIVERGED * best.mean.abs() || above < 3.0 * (last.error + best.error) {
        return Vec::new();
    }
    vec![Finding {
        kind: Kind::Divergence,
        severity: Severity::Problem,
        what: "the training loss rose and did not come back".to_owned(),
        evidence: vec![
            Evidence::over("mean loss", best.steps, best.mean),
            Evidence::over("mean loss", last.steps, last.mean),
        ],
        advice: "Lower the learning rate to a third, lengthen the warm-up, and clip gradients to \
                 a norm of 1; begin again from a checkpoint before the rise."
            .to_owned(),
    }]
}

/// Losses that the guard called spikes.
pub(super) fn spikes(history: &History) -> Vec<Finding> {
    let spikes: Vec<_> = history
        .steps
        .iter()
        .filter(|step| step.report.spike_above.is_some())
        .collect();
    if spikes.is_empty() {
        return Vec::new();
    }
    let evidence = spikes.iter().take(SHOWN).flat_map(|step| {
        let report = &step.report;
        [
            Evidence::at("loss", report.step, report.loss),
            Evidence::at("gradient norm", report.step, report.grad_norm),
        ]
    });
    // One in a hundred is what odd batches alone can do.
    let many = spikes.len() * 100 > history.steps.len() && spikes.len() > 1;
    vec![Finding {
        kind: Kind::Spikes,
        severity: if many {
            Severity::Warning
        } else {
            Severity::Note
        },
        what: match spikes.len() {
            1 => "the loss jumped once".to_owned(),
            count => format!(
                "the loss jumped {count} times in {} steps",
                history.steps.len()
            ),
        },
        evidence: evidence.collect(),
        advice: if many {
            "Lower the learning rate, or clip gradients to a smaller norm; larger batches make \
             single odd examples count less."
        } else {
            "Look at the examples of those steps: a wrong language, broken text or a very short \
             answer is the usual reason."
        }
        .to_owned(),
    }]
}

/// The loss no longer falls, or still does.
pub(super) fn plateau(history: &History) -> Vec<Finding> {
    let losses = Series::losses(history);
    let Some([first, _, third, last]) = losses.quarters(TREND_STEPS) else {
        return Vec::new();
    };
    let evidence = |begin: &super::series::Stretch| {
        vec![
            Evidence::over("mean loss", begin.steps, begin.mean),
            Evidence::over("mean loss", last.steps, last.mean),
        ]
    };
    let drop = third.mean - last.mean;
    let noise = third.error + last.error;
    let fell = first.mean - last.mean > 2.0 * (first.error + last.error);
    let rates = Series::learning_rates(history);
    let peak = rates.largest().map_or(0.0, |(_, rate)| rate);
    let rate = rates.points().last().map_or(0.0, |(_, rate)| *rate);
    if drop > FALLING * last.mean.abs() && drop > 2.0 * noise {
        return vec![Finding {
            kind: Kind::StillFalling,
            severity: Severity::Note,
            what: "the training loss still falls at the end".to_owned(),
            evidence: evidence(&third),
            advice: "More steps would lower it further; watch the validation loss while they do."
                .to_owned(),
        }];
    }
    if drop.abs() > (STANDSTILL * last.mean.abs()).max(2.0 * noise) || drop < 0.0 && !fell {
        return Vec::new();
    }
    let decayed = rate < DECAYED * peak;
    let mut evidence = evidence(&third);
    if let Some(&(step, rate)) = rates.points().last() {
        evidence.push(Evidence::at("learning rate", step, rate));
    }
    vec![Finding {
        kind: Kind::Plateau,
        severity: if decayed {
            Severity::Note
        } else {
            Severity::Warning
        },
        what: if decayed {
            "the training loss stood still in the second half, as the learning rate had decayed"
        } else {
            "the training loss stood still in the second half while the learning rate was still up"
        }
        .to_owned(),
        evidence,
        advice: if decayed {
            "That is how a run ends. For a lower loss: a higher rank, more modules, or more data."
        } else {
            "Let the learning rate decay (cosine or linear); if the loss is too high where it \
             stands, raise the rank or adapt all linear layers, and check the data for noise."
        }
        .to_owned(),
    }]
}
