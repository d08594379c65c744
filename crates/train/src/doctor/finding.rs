//! A finding: what, how bad, what shows it, what to do.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// The run could go better.
    Warning,
    /// The run did not do what it is for.
    Problem,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Problem => "problem",
        })
    }
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Parameters did not move.
    NothingTrained,
    /// The run ended with an error.
    Failed,
    /// The loss rose and stayed up.
    Divergence,
    /// The loss jumped now and then.
    Spikes,
    /// The loss no longer falls.
    Plateau,
    /// The loss still falls at the end.
    StillFalling,
    /// The learning rate is too high.
    LearningRateTooHigh,
    /// The learning rate is too low.
    LearningRateTooLow,
    /// The validation loss rises while the training loss falls.
    Overfitting,
    /// The loss on general data rises.
    Forgetting,
    /// Few tokens are trained.
    FewTokensTrained,
    /// Nearly all tokens are trained.
    AllTokensTrained,
    /// The run became slower.
    SlowedDown,
    /// Some steps take much longer than others.
    Stalls,
}

/// A number that shows a finding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// What the number is.
    pub what: String,
    /// The steps it is of, first and last; one step twice.
    pub steps: (usize, usize),
    /// The number.
    pub value: f64,
}

impl Evidence {
    /// A number of one step.
    pub(super) fn at(what: &str, step: usize, value: f64) -> Self {
        Self::over(what, (step, step), value)
    }

    /// A number of several steps.
    pub(super) fn over(what: &str, steps: (usize, usize), value: f64) -> Self {
        Self {
            what: what.to_owned(),
            steps,
            value,
        }
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, steps, value } = self;
        let magnitude = value.abs();
        match magnitude {
            x if x == 0.0 || x >= 100.0 => write!(f, "{what} {value:.0}"),
            x if x < 1e-3 => write!(f, "{what} {value:.2e}"),
            _ => write!(f, "{what} {value:.4}"),
        }?;
        match *steps {
            (first, last) if first == last => write!(f, " at step {first}"),
            (first, last) => write!(f, " over steps {first} to {last}"),
        }
    }
}

/// Something that stands out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// What.
    pub kind: Kind,
    /// How bad it is.
    pub severity: Severity,
    /// A sentence that says it.
    pub what: String,
    /// The numbers that show it.
    pub evidence: Vec<Evidence>,
    /// What to do.
    pub advice: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.severity, self.what)?;
        for evidence in &self.evidence {
            write!(f, "\n  - {evidence}")?;
        }
        write!(f, "\n  {}", self.advice)
    }
}
