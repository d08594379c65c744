//! Rendering a conversation so that a model continues its last message.

use serde_json::Value;

use super::input::{ChatInput, message_values};
use super::template::ChatTemplate;
use crate::error::{Error, Result};

/// Stands at the end of the last message while the template is rendered.
const TAG: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// Renders, and cuts the text where the last message ends.
///
/// # Source
/// - reference: transformers `utils/chat_template_utils.py::render_jinja_template`
pub(super) fn render(template: &ChatTemplate, input: &ChatInput<'_>) -> Result<String> {
    if input.add_generation_prompt {
        return Err(Error::ConflictingOptions {
            first: "continue_final_message",
            second: "add_generation_prompt",
        });
    }
    let fail = |reason| Error::ContinueFinalMessage {
        template: template.name().to_owned(),
        reason,
    };
    let mut messages = message_values(input.messages).map_err(|error| Error::InvalidMessage {
        index: 0,
        reason: error.to_string(),
    })?;
    let last = messages
        .last_mut()
        .ok_or_else(|| fail("the conversation is empty"))?;
    let text = last_text(last).ok_or_else(|| fail("it has no text"))?;
    let content = text.trim().to_owned();
    text.push_str(TAG);
    let rendered = template.render_values(input, &messages, None)?;
    let lost = || fail("the template leaves out its text");
    let position = rendered.rfind(TAG.trim_end()).ok_or_else(lost)?;
    if !rendered.contains(&content) {
        return Err(lost());
    }
    let head = &rendered[..position];
    // When the space at the end of the tag is gone, the template trims its messages.
    let kept = rendered[position..].starts_with(TAG);
    Ok(if kept { head } else { head.trim_end() }.to_owned())
}

/// The content, or the text of its last part that has one.
fn last_text(message: &mut Value) -> Option<&mut String> {
    match message.get_mut("content")? {
        Value::String(text) => Some(text),
        Value::Array(parts) => parts
            .iter_mut()
            .rev()
            .find_map(|part| match part.get_mut("text") {
                Some(Value::String(text)) => Some(text),
                _ => None,
            }),
        _ => None,
    }
}
