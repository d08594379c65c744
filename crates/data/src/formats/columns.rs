//! Renaming the columns of a file to the keys that a format has.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::names::near;
use crate::readers::Record;

/// Every key that a format reads.
pub(crate) const KEYS: &[&str] = &[
    "chosen",
    "completion",
    "context",
    "conversations",
    "data",
    "history",
    "input",
    "inputs",
    "instruction",
    "label",
    "margin",
    "message_id",
    "messages",
    "output",
    "parent_id",
    "prompt",
    "question",
    "rank",
    "rejected",
    "response",
    "role",
    "score_chosen",
    "score_rejected",
    "system",
    "system_prompt",
    "targets",
    "text",
    "tools",
];

/// Checks that the names on the left of a mapping are keys of a format.
pub(crate) fn check(columns: &BTreeMap<String, String>) -> Result<()> {
    for key in columns.keys() {
        if !KEYS.contains(&key.as_str()) {
            return Err(Error::UnknownName {
                what: "key of a format",
                name: key.clone(),
                near: near(key, KEYS),
                known: KEYS,
            });
        }
    }
    Ok(())
}

/// Moves each named column to its key; what stood under the key gives way.
///
/// A name with dots that is no column leads into one: `input.1.content` is the key `content` of the
/// second item of `input`.
pub(crate) fn rename(record: &mut Record, columns: &BTreeMap<String, String>) -> Result<()> {
    let mut moved = Vec::with_capacity(columns.len());
    for (key, column) in columns {
        match record.row.remove(column) {
            Some(value) => moved.push((key, value)),
            None => match inside(record, column) {
                Some(value) => moved.push((key, value.clone())),
                None => return Err(record.missing(column)),
            },
        }
    }
    for (key, value) in moved {
        record.row.insert(key.clone(), value);
    }
    Ok(())
}

/// What stands at a path of keys and of positions from 0.
fn inside<'a>(record: &'a Record, path: &str) -> Option<&'a Value> {
    let mut parts = path.split('.');
    let first = record.row.get(parts.next()?)?;
    parts.try_fold(first, |value, part| match value {
        Value::Object(fields) => fields.get(part),
        Value::Array(items) => items.get(part.parse::<usize>().ok()?),
        _ => None,
    })
}
