//! Evaluations: overfitting and forgetting.

use super::series::Series;
use super::{Evidence, Finding, Kind, Severity};
use crate::record::{Evaluation, History};

/// A relative rise of an evaluation loss that is worth a word, and one that is bad.
const RISE: (f64, f64) = (0.02, 0.1);

/// Steps whose mean loss stands for the training loss at an evaluation.
const AROUND: usize = 10;

fn severity(rise: f64, level: f64) -> Option<Severity> {
    match rise / level.abs().max(f64::MIN_POSITIVE) {
        share if share > RISE.1 => Some(Severity::Problem),
        share if share > RISE.0 => Some(Severity::Warning),
        _ => None,
    }
}

fn finite<'a>(history: &'a History, name: &'a str) -> Vec<&'a Evaluation> {
    let evaluations = history.evaluations_on(name);
    evaluations.filter(|eval| eval.loss.is_finite()).collect()
}

/// The validation loss rose from its lowest while the training loss fell.
pub(super) fn overfitting(history: &History) -> Vec<Finding> {
    let evals = finite(history, Evaluation::OWN);
    let best = evals.iter().min_by(|a, b| a.loss.total_cmp(&b.loss));
    let (Some(best), Some(last)) = (best, evals.last()) else {
        return Vec::new();
    };
    let losses = Series::losses(history);
    let then = losses
        .before(best.step, AROUND)
        .or_else(|| losses.after(best.step, AROUND));
    let (Some(then), Some(now)) = (then, losses.before(last.step, AROUND)) else {
        return Vec::new();
    };
    let Some(severity) = severity(last.loss - best.loss, best.loss) else {
        return Vec::new();
    };
    if now.mean >= then.mean {
        return Vec::new();
    }
    vec![Finding {
        kind: Kind::Overfitting,
        severity,
        what: format!(
            "the validation loss rose after step {} while the training loss fell",
            best.step
        ),
        evidence: vec![
            Evidence::at("lowest validation loss", best.step, best.loss),
            Evidence::at("validation loss", last.step, last.loss),
            Evidence::over("mean training loss", then.steps, then.mean),
            Evidence::over("mean training loss", now.steps, now.mean),
        ],
        advice: format!(
            "Use the checkpoint nearest to step {}. Next time: fewer epochs or early stopping, more \
             or more varied data, lora_dropout 0.05 to 0.1, a lower rank or learning rate.",
            best.step
        ),
    }]
}

/// The loss on general data rose.
pub(super) fn forgetting(history: &History) -> Vec<Finding> {
    let general = finite(history, Evaluation::GENERAL);
    let [first, .., last] = general.as_slice() else {
        return Vec::new();
    };
    let Some(severity) = severity(last.loss - first.loss, first.loss) else {
        return Vec::new();
    };
    let mut evidence = vec![
        Evidence::at("loss on general data", first.step, first.loss),
        Evidence::at("loss on general data", last.step, last.loss),
    ];
    let own = finite(history, Evaluation::OWN);
    evidence.extend(
        [own.first(), own.last()]
            .into_iter()
            .flatten()
            .map(|eval| Evidence::at("validation loss", eval.step, eval.loss)),
    );
    vec![Finding {
        kind: Kind::Forgetting,
        severity,
        what: "the model got worse on general data".to_owned(),
        evidence,
        advice: "Mix 10 to 20 % general data in, add the KL penalty against the base, or train \
                 fewer steps with a lower rank or learning rate."
            .to_owned(),
    }]
}
