//! Dolly: `instruction`, `context`, `response`.

use serde_json::{Map, Value};

use crate::error::Result;
use crate::example::Example;
use crate::message::Message;
use crate::readers::Record;

pub(super) fn recognise(row: &Map<String, Value>) -> Option<&'static str> {
    (row.contains_key("instruction") && row.contains_key("response"))
        .then_some("instruction and response")
}

/// The user's message is the instruction and, after a blank line, the context.
pub(super) fn convert(record: &Record) -> Result<Vec<Example>> {
    let instruction = record.text("instruction")?;
    let question = match record.optional_text("context")? {
        Some(context) => format!("{instruction}\n\n{context}"),
        None => instruction.to_owned(),
    };
    Ok(vec![Example::Chat {
        messages: vec![
            Message::user(question),
            Message::assistant(record.text("response")?),
        ],
        tools: None,
    }])
}
