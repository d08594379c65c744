//! ShareGPT: `conversations`, a list of turns with `from` and `value`, and LLaMA-Factory's `system` and `tools`.

use serde_json::{Map, Value};

use super::turns::{tools, turns};
use crate::error::Result;
use crate::example::Example;
use crate::message::Message;
use crate::readers::Record;

const KEYS: &[&str] = &["conversations", "conversation", "messages"];

pub(super) fn recognise(row: &Map<String, Value>) -> Option<&'static str> {
    let turns = KEYS.iter().find_map(|key| row.get(*key))?;
    let spelled = match turns {
        Value::Array(turns) => turns.first()?.get("from").is_some(),
        // A CSV cell: the turns are JSON in text.
        Value::String(text) => text.trim_start().starts_with('[') && text.contains("\"from\""),
        _ => false,
    };
    spelled.then_some("a list of turns with from and value")
}

pub(super) fn convert(record: &Record) -> Result<Vec<Example>> {
    record.text_only()?;
    let key = record.first_key(KEYS).unwrap_or(KEYS[0]);
    let mut messages = turns(record, key, true)?;
    if let Some(system) = record.optional_text("system")?
        && messages.first().is_none_or(|first| first.role != "system")
    {
        messages.insert(0, Message::system(system));
    }
    Ok(vec![Example::Chat {
        messages,
        tools: tools(record)?,
    }])
}
