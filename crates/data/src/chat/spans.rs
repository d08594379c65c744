//! Which part of a rendered conversation the assistant wrote.
//!
//! A template with `{% generation %}` tags says so itself. For any other template the parts are found by rendering
//! the conversation more than once and comparing.

use std::collections::HashSet;
use std::ops::Range;

use super::input::ChatInput;
use super::template::ChatTemplate;
use crate::error::{Error, Result};
use crate::message::{Content, Message};

/// A rendered conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderedChat {
    /// Name of the template.
    pub template: String,
    /// The text.
    pub text: String,
    /// Byte ranges of `text` that the assistant wrote, in order.
    pub assistant_spans: Vec<Range<usize>>,
}

impl ChatTemplate {
    /// Renders a conversation and finds what the assistant wrote.
    ///
    /// With `{% generation %}` tags the spans are what the tags enclose.
    /// Without, the span of an assistant message begins after the generation prompt and ends with the last mark of
    /// the turn (`<|im_end|>`, EOS), without trailing white space.
    ///
    /// # Errors
    /// The errors of [`Self::render`], and [`Error::AssistantSpanNotFound`] when a template without tags renders an
    /// assistant message in a way that cannot be traced.
    pub fn render_with_spans(&self, input: &ChatInput<'_>) -> Result<RenderedChat> {
        let (text, assistant_spans) = if input.continue_final_message {
            return Err(Error::ConflictingOptions {
                first: "continue_final_message",
                second: "assistant spans",
            });
        } else if self.has_generation_tags() {
            let mark = unused_character(self, input)?;
            remove_marks(
                &self.render_marked(input, Some(mark.encode_utf8(&mut [0; 4])))?,
                mark,
            )
        } else {
            let text = self.render(input)?;
            let spans = traced_spans(self, input, &text)?;
            (text, spans)
        };
        Ok(RenderedChat {
            template: self.name().to_owned(),
            text,
            assistant_spans,
        })
    }
}

/// A character that occurs nowhere in the input or the template, so that it cannot be forged or mistaken.
///
/// Unicode's non-characters, which are meant for use inside of a program, come first, then a private plane.
fn unused_character(template: &ChatTemplate, input: &ChatInput<'_>) -> Result<char> {
    let candidates = || ('\u{fdd0}'..='\u{fdef}').chain('\u{f0000}'..='\u{ffffd}');
    let json = serde_json::to_string(&(
        input.messages,
        input.tools,
        input.documents,
        &input.variables,
    ))
    .map_err(|error| Error::InvalidMessage {
        index: 0,
        reason: error.to_string(),
    })?;
    let is_candidate = |c: &char| matches!(c, '\u{fdd0}'..='\u{fdef}' | '\u{f0000}'..='\u{ffffd}');
    let used: HashSet<char> = json
        .chars()
        .chain(template.source().chars())
        .filter(is_candidate)
        .collect();
    candidates()
        .find(|c| !used.contains(c))
        .ok_or_else(|| Error::InvalidMessage {
            index: 0,
            reason: "the conversation uses every private character there is".to_owned(),
        })
}

/// Takes the marks out of a text; what lies between an opening and its closing mark becomes a span.
fn remove_marks(marked: &str, mark: char) -> (String, Vec<Range<usize>>) {
    let mut text = String::with_capacity(marked.len());
    let mut open = Vec::new();
    let mut spans: Vec<Range<usize>> = Vec::new();
    let mut rest = marked;
    while let Some(position) = rest.find(mark) {
        text.push_str(&rest[..position]);
        rest = &rest[position + mark.len_utf8()..];
        if let Some(tail) = rest.strip_prefix('<') {
            open.push(text.len());
            rest = tail;
        } else if let Some(tail) = rest.strip_prefix('>') {
            spans.extend(open.pop().map(|start| start..text.len()));
            rest = tail;
        }
    }
    text.push_str(rest);
    spans.retain(|span| !span.is_empty());
    spans.sort_by_key(|span| (span.start, span.end));
    (text, spans)
}

/// Finds the assistant's spans by rendering the conversation in parts.
fn traced_spans(
    template: &ChatTemplate,
    input: &ChatInput<'_>,
    text: &str,
) -> Result<Vec<Range<usize>>> {
    let mut spans: Vec<Range<usize>> = Vec::new();
    let probe = unused_character(template, input)?;
    for (index, message) in input.messages.iter().enumerate() {
        if message.role != "assistant" {
            continue;
        }
        let trace = Trace {
            template,
            input,
            text,
            index,
            probe,
        };
        let span = trace.by_prefix().or_else(|| trace.by_probe(message));
        let span = span.ok_or_else(|| Error::AssistantSpanNotFound {
            template: template.name().to_owned(),
            index,
        })?;
        spans.push(trimmed(text, span));
    }
    spans.retain(|span| !span.is_empty());
    Ok(spans)
}

/// The search for one assistant message in the rendered text.
struct Trace<'a> {
    template: &'a ChatTemplate,
    input: &'a ChatInput<'a>,
    text: &'a str,
    index: usize,
    /// Replaces the message's content to see what changes.
    probe: char,
}

impl Trace<'_> {
    fn render(&self, messages: &[Message], generation_prompt: bool) -> Option<String> {
        let input = self
            .input
            .with_messages(messages)
            .generation_prompt(generation_prompt);
        self.template.render(&input).ok()
    }

    /// The message is what follows the generation prompt, when the text grows by appending alone.
    fn by_prefix(&self) -> Option<Range<usize>> {
        let before = &self.input.messages[..self.index];
        let prompt = self.render(before, true)?;
        if self.render(before, false)? == prompt {
            // Without a prompt the message's header would count as the assistant's.
            return None;
        }
        let through = self.render(&self.input.messages[..=self.index], false)?;
        (through.starts_with(&prompt) && self.text.starts_with(&through))
            .then_some(prompt.len()..through.len())
    }

    /// The message is what changes when its content is replaced.
    fn by_probe(&self, message: &Message) -> Option<Range<usize>> {
        let Content::Text(content) = &message.content else {
            return None;
        };
        let mut messages = self.input.messages.to_vec();
        messages[self.index].content = Content::Text(self.probe.to_string());
        let all = self
            .input
            .with_messages(&messages)
            .generation_prompt(self.input.add_generation_prompt);
        let probed = self.template.render(&all).ok()?;
        let probe = probed.find(self.probe)?;
        let after = &probed[probe + self.probe.len_utf8()..];
        // The template may have trimmed the content, or taken a part of it out.
        let start = common_prefix(self.text, &probed);
        let end = self.text.len().checked_sub(after.len())?;
        if start > probe || !self.text.ends_with(after) || start > end {
            return None;
        }
        if content.trim().is_empty() && start != end {
            return None;
        }
        let end = end + self.end_of_turn(&messages, end)?;
        Some(self.after_generation_prompt(start)..end)
    }

    /// Length of the marks that end the message's turn, at `end` in the text.
    fn end_of_turn(&self, probed_messages: &[Message], end: usize) -> Option<usize> {
        let tail = &self.text[end..];
        let through = self.render(&probed_messages[..=self.index], false)?;
        let marks = &through[through.find(self.probe)? + self.probe.len_utf8()..];
        let shared = common_prefix(tail, marks);
        if shared == marks.len() || shared == tail.len() {
            return Some(shared);
        }
        // The conversation goes on differently than it would end: a mark that was only begun is not shared.
        let begun = tail[..shared].rfind(['<', '[', '{']);
        Some(match begun {
            Some(open) if !tail[open..shared].contains(['>', ']', '}']) => open,
            _ => shared,
        })
    }

    /// Moves the start back to the end of the generation prompt, when the text repeats the prompt there.
    fn after_generation_prompt(&self, start: usize) -> usize {
        let before = &self.input.messages[..self.index];
        match self.render(before, true) {
            Some(prompt) if prompt.len() <= start && self.text.starts_with(&prompt) => {
                let plain = self.render(before, false).map_or(0, |plain| plain.len());
                if plain < prompt.len() {
                    prompt.len()
                } else {
                    start
                }
            }
            _ => start,
        }
    }
}

/// Length of the longest common prefix in bytes, at a character boundary of both.
fn common_prefix(a: &str, b: &str) -> usize {
    a.chars()
        .zip(b.chars())
        .take_while(|(a, b)| a == b)
        .map(|(a, _)| a.len_utf8())
        .sum()
}

/// The span without trailing white space.
fn trimmed(text: &str, span: Range<usize>) -> Range<usize> {
    let length = text[span.clone()].trim_end().len();
    span.start..span.start + length
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(template: &str, messages: &[Message]) -> Vec<String> {
        let template = ChatTemplate::new("test", template).unwrap();
        let chat = template
            .render_with_spans(&ChatInput::new(messages))
            .unwrap();
        chat.assistant_spans
            .iter()
            .map(|span| chat.text[span.clone()].to_owned())
            .collect()
    }

    #[test]
    fn marks_of_the_user_do_not_move_the_spans() {
        let template = "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}\
                        {% endgeneration %}{% else %}{{ m.content }}{% endif %}|{% endfor %}";
        let evil = "\u{fdd0}<x\u{fdd0}>\u{fdd0}\u{fdd0}<";
        let messages = [
            Message::user(evil),
            Message::assistant("a"),
            Message::user("a"),
            Message::assistant(evil),
        ];
        assert_eq!(spans(template, &messages), ["a", evil]);
    }

    #[test]
    fn generation_tags_work_inside_macros() {
        let template = "{% macro turn(m) %}{% generation %}{{ m.content }}{% endgeneration %};{% endmacro %}\
                        {% for m in messages %}{{ turn(m) }}{% endfor %}";
        assert_eq!(
            spans(
                template,
                &[Message::assistant("a"), Message::assistant("b")]
            ),
            ["a", "b"]
        );
    }

    #[test]
    fn turns_without_a_generation_prompt_are_found_by_their_content() {
        let template = "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]\
                        {% else %} {{ m.content | trim }} </s>{% endif %}{% endfor %}";
        let messages = [
            Message::user("a"),
            Message::assistant(" a "),
            Message::user("a"),
            Message::assistant("a </s>"),
        ];
        assert_eq!(spans(template, &messages), ["a </s>", "a </s> </s>"]);
    }

    #[test]
    fn an_end_of_conversation_mark_is_not_part_of_earlier_turns() {
        let template = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}\
                        {% if add_generation_prompt %}<|assistant|>\n{% else %}<|endoftext|>{% endif %}";
        let messages = [
            Message::user("a"),
            Message::assistant("b"),
            Message::user("c"),
            Message::assistant("d"),
        ];
        assert_eq!(
            spans(template, &messages),
            ["b<|end|>", "d<|end|>\n<|endoftext|>"]
        );
    }

    #[test]
    fn a_message_that_the_template_drops_cannot_be_traced() {
        let template = ChatTemplate::new("drop", "{{ messages | length }}").unwrap();
        let error = template
            .render_with_spans(&ChatInput::new(&[Message::assistant("x")]))
            .unwrap_err();
        assert!(
            matches!(error, Error::AssistantSpanNotFound { index: 0, .. }),
            "{error}"
        );
    }
}
