//! Answers in steps, each right or wrong: TRL's `prompt`, `completions`, `labels`.

use serde_json::{Map, Value};

use super::fields::as_yes_no;
use super::turns::turns;
use crate::error::Result;
use crate::example::Example;
use crate::message::{Message, json_kind};
use crate::readers::Record;

pub(super) fn recognise(row: &Map<String, Value>) -> Option<&'static str> {
    let lists = ["completions", "labels"];
    let has = lists.iter().all(|key| row.contains_key(*key));
    (has && row.contains_key("prompt")).then_some("prompt, completions and labels")
}

/// # Source
/// - TRL documentation, "Dataset formats and types", stepwise supervision
pub(super) fn convert(record: &Record) -> Result<Vec<Example>> {
    record.text_only()?;
    let prompt = match record.value("prompt")?.is_array() {
        true => turns(record, "prompt", false)?,
        false => vec![Message::user(record.text("prompt")?)],
    };
    let steps = record.list("completions")?;
    let labels = record.list("labels")?;
    if steps.len() != labels.len() || steps.is_empty() {
        return Err(record.invalid(
            "as many labels as steps in \"completions\", at least one",
            format!("{} labels of {} steps", labels.len(), steps.len()),
        ));
    }
    let step = |(index, step): (usize, &Value)| match step {
        Value::String(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
        Value::String(_) => {
            Err(record.invalid(format!("text in completions[{index}]"), "an empty string"))
        }
        other => Err(record.invalid(format!("text in completions[{index}]"), json_kind(other))),
    };
    let label = |(index, label): (usize, &Value)| {
        as_yes_no(label).ok_or_else(|| {
            record.invalid(
                format!("true or false in labels[{index}]"),
                label.to_string(),
            )
        })
    };
    Ok(vec![Example::Stepwise {
        prompt,
        steps: steps.iter().enumerate().map(step).collect::<Result<_>>()?,
        labels: labels
            .iter()
            .enumerate()
            .map(label)
            .collect::<Result<_>>()?,
    }])
}
