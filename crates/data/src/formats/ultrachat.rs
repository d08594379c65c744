//! UltraChat: `data`, a list of texts, the user's and the assistant's in turn.

use serde_json::{Map, Value};

use crate::error::Result;
use crate::example::Example;
use crate::message::{Message, json_kind};
use crate::readers::Record;

pub(super) fn recognise(row: &Map<String, Value>) -> Option<&'static str> {
    row.get("data")?
        .as_array()?
        .first()?
        .is_string()
        .then_some("a list of texts in data")
}

pub(super) fn convert(record: &Record) -> Result<Vec<Example>> {
    // The filtered release of the dataset has messages.
    if !record.row.contains_key("data") && record.row.contains_key("messages") {
        return super::openai::convert(record);
    }
    let texts = record.list("data")?;
    if texts.len() < 2 {
        return Err(record.invalid("at least two texts in \"data\"", texts.len().to_string()));
    }
    let messages = texts
        .iter()
        .enumerate()
        .map(|(index, text)| match text {
            Value::String(text) if index % 2 == 0 => Ok(Message::user(text)),
            Value::String(text) => Ok(Message::assistant(text)),
            other => Err(record.invalid(format!("text in data[{index}]"), json_kind(other))),
        })
        .collect::<Result<_>>()?;
    Ok(vec![Example::Chat {
        messages,
        tools: None,
    }])
}
