//! What a chat template is rendered with.

use serde_json::{Map, Value};

use super::clock::CivilTime;
use crate::message::Message;
use crate::tokenizer::SpecialTokens;

/// Names that a message's reasoning goes by; the first is the one that templates read.
const REASONING_KEYS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// A conversation and everything else that a template may look at.
///
/// # Examples
/// ```
/// use flametune_data::{ChatInput, ChatTemplate, Message};
///
/// let messages = [Message::user("Hi")];
/// let input = ChatInput::new(&messages).generation_prompt(true).variable("bos_token", "<s>");
/// let text = ChatTemplate::builtin("llama-3").unwrap().render(&input).unwrap();
/// assert!(text.starts_with("<s><|start_header_id|>user<|end_header_id|>"));
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ChatInput<'a> {
    /// The conversation.
    pub messages: &'a [Message],
    /// Tool definitions as JSON schemas.
    pub tools: Option<&'a [Value]>,
    /// Documents to answer from, each with a title and a text.
    pub documents: Option<&'a [Value]>,
    /// Whether the text ends with the header of an assistant's turn.
    pub add_generation_prompt: bool,
    /// Whether the text ends inside the last message, so that a model continues it.
    pub continue_final_message: bool,
    /// The time that `strftime_now` tells; without it, templates see no such function.
    pub now: Option<CivilTime>,
    /// Other variables: `bos_token`, `date_string`, `enable_thinking`, …
    pub variables: Map<String, Value>,
}

impl<'a> ChatInput<'a> {
    /// A conversation alone.
    pub fn new(messages: &'a [Message]) -> Self {
        Self {
            messages,
            tools: None,
            documents: None,
            add_generation_prompt: false,
            continue_final_message: false,
            now: None,
            variables: Map::new(),
        }
    }

    /// Sets whether the text ends with the header of an assistant's turn.
    #[must_use]
    pub fn generation_prompt(mut self, add: bool) -> Self {
        self.add_generation_prompt = add;
        self
    }

    /// Sets the tool definitions.
    #[must_use]
    pub fn tools(mut self, tools: &'a [Value]) -> Self {
        self.tools = Some(tools);
        self
    }

    /// Sets one variable.
    #[must_use]
    pub fn variable(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// Sets `bos_token`, `eos_token`, `pad_token` and `unk_token`, where they are not set yet.
    #[must_use]
    pub fn special_tokens(mut self, special: &SpecialTokens) -> Self {
        for (name, token) in special.named() {
            self.variables
                .entry(name)
                .or_insert_with(|| Value::from(token.text.as_str()));
        }
        self
    }

    /// The same input with other messages.
    pub(super) fn with_messages<'b>(&self, messages: &'b [Message]) -> ChatInput<'b>
    where
        'a: 'b,
    {
        ChatInput {
            messages,
            tools: self.tools,
            documents: self.documents,
            add_generation_prompt: false,
            continue_final_message: false,
            now: self.now,
            variables: self.variables.clone(),
        }
    }
}

/// The messages as JSON objects, with the reasoning under every name that templates use.
pub(super) fn message_values(messages: &[Message]) -> Result<Vec<Value>, serde_json::Error> {
    messages
        .iter()
        .map(|message| {
            let mut value = serde_json::to_value(message)?;
            if let Value::Object(object) = &mut value {
                alias_reasoning(object);
            }
            Ok(value)
        })
        .collect()
}

fn alias_reasoning(message: &mut Map<String, Value>) {
    let reasoning = REASONING_KEYS
        .iter()
        .find_map(|key| message.get(*key).filter(|value| !value.is_null()));
    if let Some(reasoning) = reasoning.cloned() {
        message
            .entry("thinking")
            .or_insert_with(|| reasoning.clone());
        message.insert("reasoning_content".to_owned(), reasoning);
    }
}
