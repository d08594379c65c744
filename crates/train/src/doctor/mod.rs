//! What a run's record says about how it went, with the numbers that show it.
//!
//! Every check is a function from the [`History`] of a run to findings. Thresholds are rules of
//! thumb and stand beside each check; a finding says what was seen, and where, so that they can be
//! disagreed with.

mod data;
mod evals;
mod finding;
mod learning;
mod loss;
mod series;
mod speed;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::record::History;

pub use finding::{Evidence, Finding, Kind, Severity};

/// What was found in a run's record, the worst first.
#[derive(Debug, Clone, PartialEq)]
pub struct Diagnosis {
    /// Optimizer steps that were looked at.
    pub steps: usize,
    /// Evaluations that were looked at.
    pub evaluations: usize,
    /// What was found.
    pub findings: Vec<Finding>,
}

/// Looks a run's record over.
///
/// # Examples
/// ```
/// use flametune_train::doctor::diagnose;
/// use flametune_train::record::History;
///
/// let diagnosis = diagnose(&History::default());
/// assert_eq!(diagnosis.to_string(), "0 steps, 0 evaluations: no optimizer step is recorded");
/// ```
pub fn diagnose(history: &History) -> Diagnosis {
    let nothing = learning::nothing_trained(history);
    // A loss that stands still because nothing is trained is not a plateau.
    let trained = if nothing.is_empty() {
        [loss::plateau, learning::too_high, learning::too_low]
            .iter()
            .flat_map(|check| check(history))
            .collect()
    } else {
        Vec::new()
    };
    let rest = [
        loss::failure,
        loss::divergence,
        loss::spikes,
        evals::overfitting,
        evals::forgetting,
        data::mask,
        speed::throughput,
    ];
    let mut findings = nothing;
    findings.extend(trained);
    findings.extend(rest.iter().flat_map(|check| check(history)));
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    Diagnosis {
        steps: history.steps.len(),
        evaluations: history.evaluations.len(),
        findings,
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} steps, {} evaluations: ",
            self.steps, self.evaluations
        )?;
        if self.steps == 0 {
            return write!(f, "no optimizer step is recorded");
        }
        match self.findings.len() {
            0 => write!(f, "nothing stands out"),
            1 => write!(f, "1 finding"),
            count => write!(f, "{count} findings"),
        }?;
        for finding in &self.findings {
            write!(f, "\n\n{finding}")?;
        }
        Ok(())
    }
}
