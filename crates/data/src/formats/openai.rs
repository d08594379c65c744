//! OpenAI chat: `messages` with `role`, `content`, `tool_calls`, and `tools`.

use serde_json::{Map, Value};

use super::turns::{tools, turns};
use crate::error::Result;
use crate::example::Example;
use crate::readers::Record;

const KEYS: &[&str] = &["messages", "conversations", "conversation"];

pub(super) fn recognise(row: &Map<String, Value>) -> Option<&'static str> {
    let turns = KEYS.iter().find_map(|key| row.get(*key))?;
    let spelled = match turns {
        Value::Array(turns) => turns.first()?.get("role").is_some(),
        Value::String(text) => text.trim_start().starts_with('[') && text.contains("\"role\""),
        _ => false,
    };
    spelled.then_some("a list of turns with role and content")
}

/// Flags of single messages, such as `weight`, `train` or `loss_weight`, stay in [`Message::extra`](crate::Message).
pub(super) fn convert(record: &Record) -> Result<Vec<Example>> {
    record.text_only()?;
    let key = record.first_key(KEYS).unwrap_or(KEYS[0]);
    Ok(vec![Example::Chat {
        messages: turns(record, key, true)?,
        tools: tools(record)?,
    }])
}
