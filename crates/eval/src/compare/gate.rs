//! Rules that a candidate must meet before it is published.

use serde::{Deserialize, Serialize};

use super::{Comparison, ComparisonRow, Verdict};
use crate::error::{Error, Result};

/// Differences of decimal fractions are off by rounding, which must not close a gate.
const SLACK: f64 = 1e-9;

/// Declared rules; all must hold.
///
/// # Examples
/// A file of rules, in TOML:
/// ```toml
/// tasks = ["arc_easy", "gsm8k"]
///
/// [[rule]]
/// task = "gsm8k"
/// metric = "exact_match,strict-match"
/// min_gain = 0.02        # at least two points better than what is live
/// significant = true     # and beyond chance
///
/// [[rule]]
/// task = "arc_easy"
/// metric = "acc,none"
/// at_least = 0.30        # in any case
/// max_drop = 0.01        # at most one point worse than what is live
/// certain = true         # even at the lower end of the interval
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// Tasks to evaluate; all that rules name when empty.
    #[serde(default)]
    pub tasks: Vec<String>,
    /// The rules.
    #[serde(rename = "rule")]
    pub rules: Vec<GateRule>,
}

/// One rule about one metric.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateRule {
    /// The task; `*` for every task that has the metric.
    pub task: String,
    /// The metric's key, such as `acc,none`.
    pub metric: String,
    /// The candidate's score is at least this (at most, where less is better).
    #[serde(default)]
    pub at_least: Option<f64>,
    /// The candidate gains at least this over what is live.
    #[serde(default)]
    pub min_gain: Option<f64>,
    /// The candidate loses at most this against what is live.
    #[serde(default)]
    pub max_drop: Option<f64>,
    /// The gain is beyond chance.
    #[serde(default)]
    pub significant: bool,
    /// No loss is beyond chance.
    #[serde(default)]
    pub no_significant_drop: bool,
    /// `min_gain` and `max_drop` hold at the lower end of the 95 % interval.
    #[serde(default)]
    pub certain: bool,
}

/// One condition and whether it holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GateCheck {
    /// The task.
    pub task: String,
    /// The metric.
    pub metric: String,
    /// What was required and what was found.
    pub finding: String,
    /// Whether it holds.
    pub passed: bool,
}

/// The outcome of all rules.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GateVerdict {
    /// Whether every condition holds.
    pub passed: bool,
    /// The conditions, rule by rule.
    pub checks: Vec<GateCheck>,
}

impl Gate {
    /// The tasks that must be evaluated.
    #[must_use]
    pub fn wanted_tasks(&self) -> Vec<String> {
        let mut tasks = self.tasks.clone();
        for rule in &self.rules {
            if rule.task != "*" && !tasks.contains(&rule.task) {
                tasks.push(rule.task.clone());
            }
        }
        tasks
    }

    /// Checks that every rule says something; `file` is named in errors.
    ///
    /// # Errors
    /// [`Error::Rule`] for no rules, a rule without a condition, or numbers that are none.
    pub fn validate(&self, file: &str) -> Result<()> {
        let refuse = |rule: usize, reason: &str| Error::Rule {
            file: file.to_owned(),
            rule,
            reason: reason.to_owned(),
        };
        if self.rules.is_empty() {
            return Err(refuse(
                0,
                "there are no rules, and a gate without rules lets everything pass",
            ));
        }
        for (index, rule) in self.rules.iter().enumerate() {
            let numbers = [rule.at_least, rule.min_gain, rule.max_drop];
            if numbers.iter().flatten().any(|number| !number.is_finite()) {
                return Err(refuse(index + 1, "numbers must be finite"));
            }
            if rule.max_drop.is_some_and(|drop| drop < 0.0) {
                return Err(refuse(index + 1, "max_drop must be at least 0"));
            }
            let conditions = numbers.iter().flatten().count();
            if conditions == 0 && !rule.significant && !rule.no_significant_drop {
                return Err(refuse(
                    index + 1,
                    "it has no condition: at_least, min_gain, max_drop, significant or no_significant_drop",
                ));
            }
            if rule.certain && rule.min_gain.is_none() && rule.max_drop.is_none() {
                return Err(refuse(index + 1, "certain needs min_gain or max_drop"));
            }
        }
        if self.wanted_tasks().is_empty() {
            return Err(refuse(0, "no rule names a task, and tasks is empty"));
        }
        Ok(())
    }

    /// Judges a candidate compared with what is live.
    ///
    /// # Errors
    /// [`Error::Rule`] for a rule about a metric that no task has.
    pub fn judge(&self, file: &str, comparison: &Comparison) -> Result<GateVerdict> {
        let mut checks = Vec::new();
        for (index, rule) in self.rules.iter().enumerate() {
            let rows: Vec<&ComparisonRow> = comparison
                .rows
                .iter()
                .filter(|row| {
                    (rule.task == "*" || row.task == rule.task) && row.key() == rule.metric
                })
                .collect();
            if rows.is_empty() {
                let known: Vec<String> = comparison
                    .rows
                    .iter()
                    .filter(|row| rule.task == "*" || row.task == rule.task)
                    .map(|row| format!("{} {}", row.task, row.key()))
                    .collect();
                return Err(Error::Rule {
                    file: file.to_owned(),
                    rule: index + 1,
                    reason: format!(
                        "no result {} {}; there are: {}",
                        rule.task,
                        rule.metric,
                        known.join(", ")
                    ),
                });
            }
            for row in rows {
                rule.check(row, &mut checks);
            }
        }
        Ok(GateVerdict {
            passed: checks.iter().all(|check| check.passed),
            checks,
        })
    }
}

impl GateRule {
    fn check(&self, row: &ComparisonRow, checks: &mut Vec<GateCheck>) {
        let mut check = |passed: bool, finding: String| {
            checks.push(GateCheck {
                task: row.task.clone(),
                metric: row.key(),
                finding,
                passed,
            });
        };
        let value = row.candidate.value;
        if let Some(bound) = self.at_least {
            let (passed, word) = if row.candidate.higher_is_better {
                (value + SLACK >= bound, "at least")
            } else {
                (value - SLACK <= bound, "at most")
            };
            check(passed, format!("{word} {bound}: it is {value:.4}"));
        }
        let gain = row.gain();
        let lower = match row.paired.filter(|_| row.interval_is_of_delta) {
            Some(paired) if row.base.higher_is_better => Some(paired.interval.low),
            Some(paired) => Some(-paired.interval.high),
            None => None,
        };
        let (measured, which) = match (self.certain, lower) {
            (true, Some(lower)) => (lower, "at the interval's lower end"),
            // Without an interval nothing is certain.
            (true, None) => (f64::NEG_INFINITY, "for which there is no interval"),
            (false, _) => (gain, "measured"),
        };
        if let Some(least) = self.min_gain {
            check(
                measured + SLACK >= least,
                format!("gain of at least {least}: {measured:+.4} {which}"),
            );
        }
        if let Some(most) = self.max_drop {
            check(
                measured + SLACK >= -most,
                format!("drop of at most {most}: {measured:+.4} {which}"),
            );
        }
        let p = row
            .adjusted_p
            .map_or("no test".to_owned(), |p| format!("p = {p:.4}"));
        if self.significant {
            check(
                row.verdict == Verdict::Better,
                format!("better beyond chance: {gain:+.4}, {p}"),
            );
        }
        if self.no_significant_drop {
            check(
                row.verdict != Verdict::Worse,
                format!("not worse beyond chance: {gain:+.4}, {p}"),
            );
        }
    }
}
