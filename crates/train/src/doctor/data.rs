//! What the data trains.

use super::{Evidence, Finding, Kind, Severity};
use crate::record::History;

/// A share of trained tokens that wastes most of the work.
const FEW: f64 = 0.05;

/// A share of trained tokens at which prompts are trained as well.
const ALL: f64 = 0.97;

/// The share of tokens that are trained, padding counted with the others.
pub(super) fn mask(history: &History) -> Vec<Finding> {
    let total = |count: fn(&crate::StepReport) -> usize| -> usize {
        history.steps.iter().map(|step| count(&step.report)).sum()
    };
    let tokens = total(|report| report.tokens);
    let (Some(first), Some(last), true) = (history.steps.first(), history.steps.last(), tokens > 0)
    else {
        return Vec::new();
    };
    let steps = (first.report.step, last.report.step);
    let share = total(|report| report.supervised_tokens) as f64 / tokens as f64;
    let evidence = vec![
        Evidence::over("share of trained tokens", steps, share),
        Evidence::over("tokens", steps, tokens as f64),
    ];
    if share < FEW {
        return vec![Finding {
            kind: Kind::FewTokensTrained,
            severity: Severity::Warning,
            what: "few of the computed tokens are trained".to_owned(),
            evidence,
            advice: "Pack examples into rows or batch them by length; check with `flametune data \
                     check` that the label mask leaves the answers."
                .to_owned(),
        }];
    }
    if share > ALL {
        return vec![Finding {
            kind: Kind::AllTokensTrained,
            severity: Severity::Note,
            what: "nearly all tokens are trained, prompts too".to_owned(),
            evidence,
            advice: "Right for plain text. For conversations, mask all but the assistant's turns."
                .to_owned(),
        }];
    }
    Vec::new()
}
