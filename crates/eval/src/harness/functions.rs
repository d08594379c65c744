//! What some of the reference's tasks do in Python, done here.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value, json};

use crate::python;

/// A change of every document before it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProcessDocs {
    /// HellaSwag: query, choices and gold answer out of the raw columns.
    Hellaswag,
}

/// A score that is not made of metrics of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProcessResults {
    /// TruthfulQA's mc2: the probability of all true answers together.
    TruthfulqaMc2,
}

impl ProcessDocs {
    /// The function that a task's `process_docs` names.
    pub(crate) fn named(dataset_path: Option<&str>, function: &str) -> Option<Self> {
        let name = function.trim_start_matches("!function ");
        let hellaswag = dataset_path.is_some_and(|path| path.to_lowercase().contains("hellaswag"));
        match name {
            "hellaswag" | "hellaswag.process_docs" => Some(Self::Hellaswag),
            "utils.process_docs" if hellaswag => Some(Self::Hellaswag),
            _ => None,
        }
    }

    /// The changed row, or the name of a column that is missing.
    pub(crate) fn apply(self, row: Map<String, Value>) -> Result<Map<String, Value>, &'static str> {
        match self {
            Self::Hellaswag => hellaswag(row),
        }
    }
}

impl ProcessResults {
    /// The function that a task's `process_results` names.
    pub(crate) fn named(function: &str) -> Option<Self> {
        match function.trim_start_matches("!function ") {
            "truthfulqa_mc2" | "utils.process_results_mc2" => Some(Self::TruthfulqaMc2),
            _ => None,
        }
    }
}

/// `query`, `choices` and `gold` beside the raw columns, as lm-eval's `hellaswag/utils.py` makes them.
fn hellaswag(mut row: Map<String, Value>) -> Result<Map<String, Value>, &'static str> {
    let text = |row: &Map<String, Value>, column: &'static str| {
        row.get(column)
            .and_then(Value::as_str)
            .map(str::to_owned)
            .ok_or(column)
    };
    let context = format!(
        "{} {}",
        text(&row, "ctx_a")?,
        capitalize(&text(&row, "ctx_b")?)
    );
    let query = clean(&format!("{}: {context}", text(&row, "activity_label")?));
    let endings = row
        .get("endings")
        .and_then(Value::as_array)
        .ok_or("endings")?;
    let choices: Vec<String> = endings
        .iter()
        .map(|ending| clean(&python::python_str(ending)))
        .collect();
    let gold = match row.get("label") {
        Some(Value::String(label)) => label.parse::<i64>().map_err(|_| "label")?,
        Some(Value::Number(label)) => label.as_i64().ok_or("label")?,
        _ => return Err("label"),
    };
    row.insert("query".into(), json!(query));
    row.insert("choices".into(), json!(choices));
    row.insert("gold".into(), json!(gold));
    Ok(row)
}

/// `str.capitalize`: the first letter large, all others small.
fn capitalize(text: &str) -> String {
    let mut characters = text.chars();
    match characters.next() {
        None => String::new(),
        Some(first) => {
            first.to_uppercase().collect::<String>() + &characters.as_str().to_lowercase()
        }
    }
}

/// Takes out the brackets that stay from WikiHow.
fn clean(text: &str) -> String {
    static BRACKETS: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\[.*?\]").ok());
    let text = python::strip(text).replace(" [title]", ". ");
    let text = match BRACKETS.as_ref() {
        Some(brackets) => brackets.replace_all(&text, "").into_owned(),
        None => text,
    };
    text.replace("  ", " ")
}

/// The share of probability on the answers with label 1.
///
/// `None` when there are no labels, or not as many as answers.
pub(crate) fn truthfulqa_mc2(doc: &Map<String, Value>, loglikelihoods: &[f64]) -> Option<f64> {
    let labels = doc.get("mc2_targets")?.get("labels")?.as_array()?;
    if labels.len() != loglikelihoods.len() {
        return None;
    }
    let total: f64 = loglikelihoods.iter().map(|value| value.exp()).sum();
    let right = labels
        .iter()
        .zip(loglikelihoods)
        .filter(|(label, _)| label.as_i64() == Some(1))
        .map(|(_, value)| value.exp() / total)
        .sum();
    Some(right)
}
