//! One turn of a conversation, in the shape of the OpenAI chat API.

use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// One message: who speaks, and what is said.
///
/// The role is free-form text: whether a role is accepted is the chat template's decision.
/// Keys that are not fields here are kept in `extra` and reach the template.
///
/// # Examples
/// ```
/// use flametune_data::Message;
///
/// let message: Message = serde_json::from_str(r#"{"role": "user", "content": "Hi", "mood": "good"}"#).unwrap();
/// assert_eq!(message.content.as_text(), Some("Hi"));
/// assert_eq!(message.extra["mood"], "good");
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, `tool` or any other word that the template knows.
    pub role: String,
    /// What is said.
    #[serde(default, skip_serializing_if = "Content::is_absent")]
    pub content: Content,
    /// Tool calls of an assistant message, as the API spells them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<Value>>,
    /// The call that a `tool` message answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// Name of the speaker or of the tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Every other key, such as `reasoning_content`.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Message {
    /// A message with text content.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: Content::Text(content.into()),
            tool_calls: None,
            tool_call_id: None,
            name: None,
            extra: Map::new(),
        }
    }

    /// A message of the system.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new("system", content)
    }

    /// A message of the user.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// A message of the assistant.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }

    /// The same message with one more key, such as the `input` of an Alpaca instruction.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.extra.insert(key.into(), value.into());
        self
    }
}

/// The content of a message.
///
/// `Absent` and `Null` differ: a template may ask whether the key is there at all.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Content {
    /// The message has no `content` key.
    #[default]
    Absent,
    /// The key is there and null, as beside tool calls.
    Null,
    /// Plain text.
    Text(String),
    /// A list of parts, each an object with a `type`.
    Parts(Vec<Value>),
}

impl Content {
    /// The text, when the content is plain text.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Whether the key is missing.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

impl Serialize for Content {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::Absent | Self::Null => serializer.serialize_none(),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Parts(parts) => parts.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Null => Ok(Self::Null),
            Value::String(text) => Ok(Self::Text(text)),
            Value::Array(parts) => match parts.iter().position(|part| !part.is_object()) {
                None => Ok(Self::Parts(parts)),
                Some(index) => Err(D::Error::custom(format!(
                    "content[{index}] must be an object, got {}",
                    json_kind(&parts[index])
                ))),
            },
            other => Err(D::Error::custom(format!(
                "content must be a string, a list of parts or null, got {}",
                json_kind(&other)
            ))),
        }
    }
}

/// Reads a conversation, naming the message that is malformed.
///
/// # Errors
/// [`Error::InvalidJson`] when `json` is not a JSON array, [`Error::InvalidMessage`] when an entry is no message.
pub fn parse_messages(json: &str) -> Result<Vec<Message>> {
    let values: Vec<Value> =
        serde_json::from_str(json).map_err(|error| Error::json("messages", &error))?;
    values
        .into_iter()
        .enumerate()
        .map(|(index, value)| {
            serde_json::from_value(value).map_err(|error| Error::InvalidMessage {
                index,
                reason: error.to_string(),
            })
        })
        .collect()
}

/// The kind of a JSON value, for messages about a wrong type.
pub(crate) fn json_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_null_and_absent_content_survive_a_round_trip() {
        let json = r#"[{"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function"}],"weight":0.5},{"role":"tool","tool_call_id":"1","name":"f"},{"role":"user","content":[{"type":"text","text":"x"}]}]"#;
        let messages = parse_messages(json).unwrap();
        assert_eq!(messages[0].content, Content::Null);
        assert_eq!(messages[1].content, Content::Absent);
        assert_eq!(serde_json::to_string(&messages).unwrap(), json);
    }

    #[test]
    fn malformed_messages_are_named() {
        let check = |json: &str, expected: &str| {
            assert_eq!(parse_messages(json).unwrap_err().to_string(), expected);
        };
        check(
            r#"[{"role":"user","content":"a"},{"role":"user","content":7}]"#,
            "message 1: content must be a string, a list of parts or null, got a number",
        );
        check(
            r#"[{"role":"user","content":["a"]}]"#,
            "message 0: content[0] must be an object, got a string",
        );
        check(r#"[{"content":"a"}]"#, "message 0: missing field `role`");
        check(
            r#"{"role":"user"}"#,
            "messages:1:0: invalid type: map, expected a sequence",
        );
        let deep = format!("[{}{}]", "[".repeat(10_000), "]".repeat(10_000));
        assert!(matches!(
            parse_messages(&deep),
            Err(Error::InvalidJson { .. })
        ));
    }
}
