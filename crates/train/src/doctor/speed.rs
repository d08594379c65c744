//! Whether the run kept its speed.

use super::series::Series;
use super::{Evidence, Finding, Kind, Severity};
use crate::record::{History, TrainedStep};

/// A share of the best quarter's speed below which the run has slowed down.
const SLOW: f64 = 0.8;

/// A share of the median speed below which a step is a stall.
const STALL: f64 = 0.5;

/// The share of steps that may stall.
const MANY: f64 = 0.05;

/// Steps without which speed is not looked at.
const STEPS: usize = 20;

/// Stalls that are shown one by one.
const SHOWN: usize = 3;

/// The last quarter is slower than the best, or single steps are far slower than the others.
pub(super) fn throughput(history: &History) -> Vec<Finding> {
    let speed = Series::of(history, TrainedStep::tokens_per_second);
    let Some(quarters) = speed.quarters(STEPS) else {
        return Vec::new();
    };
    let what = "median tokens/s";
    let best = quarters.iter().max_by(|a, b| a.median.total_cmp(&b.median));
    let (Some(best), [.., last]) = (best, &quarters) else {
        return Vec::new();
    };
    if last.median < SLOW * best.median {
        return vec![Finding {
            kind: Kind::SlowedDown,
            severity: Severity::Warning,
            what: "the run became slower".to_owned(),
            evidence: vec![
                Evidence::over(what, best.steps, best.median),
                Evidence::over(what, last.steps, last.median),
            ],
            advice: "Look for another program on the machine, for memory that is swapped out, for \
                     heat; batches of growing length slow a run down as well."
                .to_owned(),
        }];
    }
    let Some(whole) = speed.whole() else {
        return Vec::new();
    };
    let stalls: Vec<_> = speed
        .points()
        .iter()
        .filter(|(_, speed)| *speed < STALL * whole.median)
        .collect();
    if stalls.len() as f64 <= MANY * speed.len() as f64 {
        return Vec::new();
    }
    let mut evidence = vec![Evidence::over(what, whole.steps, whole.median)];
    let shown = stalls.iter().take(SHOWN);
    evidence.extend(shown.map(|(step, speed)| Evidence::at("tokens/s", *step, *speed)));
    vec![Finding {
        kind: Kind::Stalls,
        severity: Severity::Note,
        what: format!(
            "{} of {} steps took more than twice as long a token as the others",
            stalls.len(),
            speed.len()
        ),
        evidence,
        advice: "Short batches leave cores idle: pack examples or group them by length; reading \
                 data may be slow too."
            .to_owned(),
    }]
}
