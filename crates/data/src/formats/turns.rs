//! Conversations as lists of turns, in the spelling of ShareGPT or of the OpenAI API.

use serde_json::{Map, Value, json};

use crate::error::Result;
use crate::message::{Content, Message, json_kind};
use crate::readers::Record;

/// Role names of published datasets, and the role that each means.
const ROLES: &[(&str, &str)] = &[
    ("human", "user"),
    ("user", "user"),
    ("prompter", "user"),
    ("gpt", "assistant"),
    ("chatgpt", "assistant"),
    ("bard", "assistant"),
    ("bing", "assistant"),
    ("model", "assistant"),
    ("assistant", "assistant"),
    ("system", "system"),
    ("developer", "developer"),
    ("tool", "tool"),
    ("tool_response", "tool"),
    ("function", "tool"),
    ("function_response", "tool"),
    ("observation", "tool"),
    ("function_call", "function_call"),
    ("tool_call", "function_call"),
];

/// Reads the turns under a key; there must be at least one, and one of the assistant when `answered`.
pub(super) fn turns(record: &Record, key: &str, answered: bool) -> Result<Vec<Message>> {
    let turns = record.list(key)?;
    let messages = turns
        .iter()
        .enumerate()
        .map(|(index, turn)| message(record, &format!("{key}[{index}]"), turn))
        .collect::<Result<Vec<_>>>()?;
    if messages.is_empty() {
        return Err(record.invalid(format!("turns in {key:?}"), "an empty list"));
    }
    if answered && !messages.iter().any(|message| message.role == "assistant") {
        return Err(record.invalid(
            format!("a turn of the assistant in {key:?}"),
            format!("{} turns of others", messages.len()),
        ));
    }
    Ok(messages)
}

/// Reads one turn: `{"from", "value"}` or `{"role", "content"}`. Other keys, such as `weight` or `train`, are kept.
pub(super) fn message(record: &Record, place: &str, turn: &Value) -> Result<Message> {
    let Value::Object(turn) = turn else {
        return Err(record.invalid(format!("a turn in {place}"), json_kind(turn)));
    };
    let mut turn = turn.clone();
    let (role_key, content_key) = if turn.contains_key("from") {
        ("from", "value")
    } else {
        ("role", "content")
    };
    let role = match turn.remove(role_key) {
        Some(Value::String(role)) => role,
        Some(other) => {
            return Err(record.invalid(format!("a role in {place}.{role_key}"), json_kind(&other)));
        }
        None => {
            return Err(record.invalid(
                format!("the keys \"role\" and \"content\", or \"from\" and \"value\", in {place}"),
                format!("the keys {}", keys(&turn)),
            ));
        }
    };
    let role = role_of(record, place, &role)?;
    let content = turn.remove(content_key);
    if role == "function_call" {
        return function_call(record, place, content.as_ref(), turn);
    }
    // Columnar files spell absent keys as null.
    turn.retain(|_, value| !value.is_null());
    turn.insert("role".into(), role.into());
    if let Some(content) = content {
        turn.insert("content".into(), joined(content));
    }
    let message: Message = serde_json::from_value(Value::Object(turn))
        .map_err(|error| record.invalid(format!("a message in {place}"), error.to_string()))?;
    let silent = match &message.content {
        Content::Absent | Content::Null => true,
        Content::Text(text) => text.is_empty() && message.role == "assistant",
        Content::Parts(parts) => parts.is_empty(),
    };
    if silent && message.tool_calls.as_ref().is_none_or(Vec::is_empty) {
        let key = format!("{place}.{content_key}");
        return Err(record.invalid(format!("text or tool calls in {key}"), "nothing"));
    }
    Ok(message)
}

/// The tools of a record, in the shape of the OpenAI API; bare function declarations are wrapped.
pub(super) fn tools(record: &Record) -> Result<Option<Vec<Value>>> {
    match record.row.get("tools") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(None),
        Some(_) => {}
    }
    let tools: Vec<Value> = record
        .list("tools")?
        .into_iter()
        .enumerate()
        .map(|(index, tool)| match &tool {
            Value::Object(fields) if fields.contains_key("function") => Ok(tool),
            Value::Object(fields) if fields.contains_key("name") => {
                Ok(json!({"type": "function", "function": tool}))
            }
            other => Err(record.invalid(
                format!("a function declaration in tools[{index}]"),
                json_kind(other),
            )),
        })
        .collect::<Result<_>>()?;
    Ok(Some(tools).filter(|tools| !tools.is_empty()))
}

fn role_of(record: &Record, place: &str, role: &str) -> Result<&'static str> {
    let lower = role.trim().to_ascii_lowercase().replace('-', "_");
    ROLES
        .iter()
        .find(|(name, _)| *name == lower)
        .map(|(_, meaning)| *meaning)
        .ok_or_else(|| {
            let known: Vec<_> = ROLES.iter().map(|(name, _)| *name).collect();
            record.invalid(
                format!("a role in {place} ({})", known.join(", ")),
                format!("{role:?}"),
            )
        })
}

/// A turn that calls functions: its text is one call as JSON, or a list of calls.
fn function_call(
    record: &Record,
    place: &str,
    content: Option<&Value>,
    extra: Map<String, Value>,
) -> Result<Message> {
    let expected = || format!("a call {{\"name\", \"arguments\"}} in {place}");
    let parsed = match content {
        Some(Value::String(text)) => serde_json::from_str::<Value>(text)
            .map_err(|error| record.invalid(expected(), format!("broken JSON: {error}")))?,
        Some(other) => other.clone(),
        None => Value::Null,
    };
    let calls = match parsed {
        Value::Array(calls) => calls,
        one => vec![one],
    };
    let calls = calls
        .into_iter()
        .map(|call| match &call {
            Value::Object(fields) if fields.get("name").is_some_and(Value::is_string) => {
                Ok(json!({"type": "function", "function": call}))
            }
            other => Err(record.invalid(expected(), json_kind(other))),
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(Message {
        role: "assistant".into(),
        content: Content::Null,
        tool_calls: Some(calls),
        tool_call_id: None,
        name: None,
        extra,
    })
}

/// Parts that are all text become one text, as templates of text models expect it; others stay parts.
fn joined(content: Value) -> Value {
    let Value::Array(parts) = &content else {
        return content;
    };
    let texts: Option<Vec<&str>> = parts
        .iter()
        .map(
            |part| match (part.get("type"), part.get("text").or(part.get("value"))) {
                (Some(Value::String(kind)), Some(Value::String(text))) if kind == "text" => {
                    Some(text.as_str())
                }
                _ => None,
            },
        )
        .collect();
    match texts {
        Some(texts) if !texts.is_empty() => Value::String(texts.concat()),
        _ => content,
    }
}

fn keys(turn: &Map<String, Value>) -> String {
    let keys: Vec<_> = turn.keys().map(String::as_str).collect();
    keys.join(", ")
}
