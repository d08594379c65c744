//! Reading the columns of a record, with errors that say what was expected.

use serde_json::Value;

use crate::error::Result;
use crate::message::json_kind;
use crate::readers::Record;

/// Most keys that a message lists.
const KEYS_SHOWN: usize = 12;

impl Record {
    /// A text that must be there and hold more than space.
    pub(super) fn text(&self, key: &str) -> Result<&str> {
        match self.row.get(key) {
            Some(Value::String(text)) if !text.trim().is_empty() => Ok(text),
            Some(Value::String(_)) => {
                Err(self.invalid(format!("text in {key:?}"), "an empty string"))
            }
            Some(other) => Err(self.invalid(format!("text in {key:?}"), json_kind(other))),
            None => Err(self.missing(key)),
        }
    }

    /// A text that may be missing, null or empty.
    pub(super) fn optional_text(&self, key: &str) -> Result<Option<&str>> {
        match self.row.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)
                .filter(|text| !text.trim().is_empty())
                .map(String::as_str)),
            Some(other) => {
                Err(self.invalid(format!("text or nothing in {key:?}"), json_kind(other)))
            }
        }
    }

    /// A value that must be there.
    pub(super) fn value(&self, key: &str) -> Result<&Value> {
        self.row.get(key).ok_or_else(|| self.missing(key))
    }

    /// The first of these keys that the record has.
    pub(super) fn first_key<'k>(&self, keys: &[&'k str]) -> Option<&'k str> {
        keys.iter().copied().find(|key| self.row.contains_key(*key))
    }

    /// A list: as JSON, or as text that holds JSON, the way CSV files carry it.
    pub(super) fn list(&self, key: &str) -> Result<Vec<Value>> {
        let expected = || format!("a list in {key:?}");
        match self.value(key)? {
            Value::Array(items) => Ok(items.clone()),
            Value::String(text) if text.trim_start().starts_with('[') => serde_json::from_str(text)
                .map_err(|error| self.invalid(expected(), format!("broken JSON: {error}"))),
            other => Err(self.invalid(expected(), json_kind(other))),
        }
    }

    /// Yes or no: a boolean, 0 or 1, or these as text.
    pub(super) fn yes_no(&self, key: &str) -> Result<bool> {
        let value = self.value(key)?;
        as_yes_no(value)
            .ok_or_else(|| self.invalid(format!("true or false in {key:?}"), value.to_string()))
    }

    /// The error that a key is missing, with the keys that are there.
    pub(super) fn missing(&self, key: &str) -> crate::Error {
        if let Some(left_out) = self.left_out.iter().find(|left| left.column == key) {
            return self.invalid(
                format!("a column of text in {key:?}"),
                format!("a column of type {}", left_out.kind),
            );
        }
        self.invalid(
            format!("the key {key:?}"),
            format!("the keys {}", self.keys().join(", ")),
        )
    }

    /// The keys of the record, the first ones when there are many.
    pub(super) fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.row.keys().take(KEYS_SHOWN).cloned().collect();
        if self.row.len() > KEYS_SHOWN {
            keys.push(format!("… {} more", self.row.len() - KEYS_SHOWN));
        }
        keys
    }

    /// Refuses records whose pictures or sounds would be lost.
    pub(super) fn text_only(&self) -> Result<()> {
        for key in ["images", "videos", "audios", "image", "video", "audio"] {
            let empty = match self.row.get(key) {
                None | Some(Value::Null) => true,
                Some(Value::Array(items)) => items.is_empty(),
                Some(Value::String(text)) => text.is_empty(),
                Some(_) => false,
            };
            if !empty {
                return Err(self.invalid("text alone", format!("{key:?}")));
            }
        }
        Ok(())
    }
}

/// A boolean in any of its spellings.
pub(super) fn as_yes_no(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(label) => Some(*label),
        Value::Number(number) => match number.as_i64() {
            Some(0) => Some(false),
            Some(1) => Some(true),
            _ => None,
        },
        Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    }
}
