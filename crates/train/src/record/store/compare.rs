//! Runs side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value;

use super::RunDetails;
use super::rows::number;
use crate::record::{RunDescription, table};

/// What differs between runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// The runs.
    pub runs: Vec<String>,
    /// The settings that differ, with the value of each run; empty where a run has none.
    pub settings: Vec<(String, Vec<String>)>,
    /// The final numbers, alike.
    pub metrics: Vec<(String, Vec<String>)>,
}

impl Comparison {
    pub(super) fn of(runs: &[RunDetails]) -> Self {
        let settings: Vec<BTreeMap<String, String>> = runs
            .iter()
            .map(|run| facts(&run.description).into_iter().collect())
            .collect();
        let metrics: Vec<BTreeMap<String, String>> = runs
            .iter()
            .map(|run| {
                let text = |(name, value): (&String, &f64)| (name.clone(), number(Some(*value)));
                run.metrics.iter().map(text).collect()
            })
            .collect();
        let mut differing = side_by_side(&settings);
        differing.retain(|(_, values)| values.iter().any(|value| *value != values[0]));
        Self {
            runs: runs
                .iter()
                .map(|run| format!("{} ({})", run.run.name, run.run.id))
                .collect(),
            settings: differing,
            metrics: side_by_side(&metrics),
        }
    }
}

/// Every name that any run has.
fn side_by_side(runs: &[BTreeMap<String, String>]) -> Vec<(String, Vec<String>)> {
    let names: BTreeSet<&String> = runs.iter().flat_map(BTreeMap::keys).collect();
    let values = |name: &String| {
        let value = |run: &BTreeMap<String, String>| run.get(name).cloned().unwrap_or_default();
        runs.iter().map(value).collect()
    };
    names
        .into_iter()
        .map(|name| (name.clone(), values(name)))
        .collect()
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = table::plain();
        table.set_header(std::iter::once("").chain(self.runs.iter().map(String::as_str)));
        for (name, values) in self.settings.iter().chain(&self.metrics) {
            table.add_row(std::iter::once(name).chain(values));
        }
        write!(f, "{}", table.trim_fmt())?;
        if self.settings.is_empty() {
            write!(f, "\nno setting differs")?;
        }
        Ok(())
    }
}

/// The settings of a run by dotted name, and what it is made of.
pub(super) fn facts(description: &RunDescription) -> Vec<(String, String)> {
    let RunDescription {
        config,
        model,
        adapter,
        data,
        max_steps,
        ..
    } = description;
    let mut facts = flatten(config);
    facts.extend(
        [
            ("run.max_steps", max_steps.to_string()),
            ("run.model", model.name.clone()),
            ("run.weights", model.storage.clone()),
            ("run.method", adapter.method.clone()),
            ("run.trainable", adapter.trainable.to_string()),
            ("run.data", data.source.clone()),
            ("run.data_digest", data.digest.clone()),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    facts
}

/// The leaves of a JSON value by their dotted paths; lists are leaves.
pub(crate) fn flatten(value: &Value) -> Vec<(String, String)> {
    let mut leaves = Vec::new();
    let mut open = vec![(String::new(), value)];
    while let Some((path, value)) = open.pop() {
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                // The last is looked at first, so the order of fields comes back.
                for (name, value) in fields.iter().rev() {
                    let dot = if path.is_empty() { "" } else { "." };
                    open.push((format!("{path}{dot}{name}"), value));
                }
            }
            Value::Null if path.is_empty() => {}
            Value::String(text) => leaves.push((path, text.clone())),
            other => leaves.push((path, other.to_string())),
        }
    }
    leaves
}
