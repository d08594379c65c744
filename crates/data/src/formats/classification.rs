//! Classification: `text` and `label`.

use serde_json::{Map, Value};

use super::ConvertOptions;
use crate::error::Result;
use crate::example::Example;
use crate::readers::Record;

pub(super) fn recognise(row: &Map<String, Value>) -> Option<&'static str> {
    (row.contains_key("text") && row.contains_key("label")).then_some("text and label")
}

/// The label is a class index from 0, or one of the names in [`ConvertOptions::classes`].
pub(super) fn convert(record: &Record, options: &ConvertOptions) -> Result<Vec<Example>> {
    let text = record.text("text")?.to_owned();
    let value = record.value("label")?;
    let expected = || match options.classes.as_slice() {
        [] => "a class index in \"label\" (give `classes` when labels are names)".to_owned(),
        classes => format!("a class in \"label\" ({})", classes.join(", ")),
    };
    let named = |name: &str| options.classes.iter().position(|class| class == name);
    let index = match value {
        Value::Number(number) => number
            .as_u64()
            .and_then(|index| usize::try_from(index).ok()),
        Value::Bool(label) => Some(usize::from(*label)),
        // A CSV file has numbers as text.
        Value::String(name) => named(name).or_else(|| name.trim().parse().ok()),
        _ => None,
    };
    let in_range = |index: &usize| options.classes.is_empty() || *index < options.classes.len();
    match index.filter(in_range) {
        Some(label) => Ok(vec![Example::Classified { text, label }]),
        None => Err(record.invalid(expected(), value.to_string())),
    }
}
