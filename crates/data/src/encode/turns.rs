//! Which message a span of the assistant's text belongs to, and which messages are trained.

use std::ops::Range;

use serde_json::Value;

use super::TrainOn;
use crate::chat::{ChatInput, ChatTemplate, RenderedChat};
use crate::error::{Error, Result};
use crate::message::Message;

/// A span of the rendered text that one assistant message made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TurnSpan {
    /// Position of the message.
    pub(super) message: usize,
    /// Byte range of the text.
    pub(super) span: Range<usize>,
}

/// Assigns the spans of a rendered conversation to its messages.
///
/// A template without tags gives one span to each assistant message that has text. Otherwise the conversation is
/// rendered up to each assistant message: the spans that are new there are that message's, provided that they begin
/// where they begin in the whole.
pub(super) fn turn_spans(
    template: &ChatTemplate,
    input: &ChatInput<'_>,
    chat: &RenderedChat,
) -> Result<Vec<TurnSpan>> {
    let spans = &chat.assistant_spans;
    let of_assistant =
        |(index, message): (usize, &Message)| (message.role == "assistant").then_some(index);
    let speakers: Vec<usize> = input
        .messages
        .iter()
        .enumerate()
        .filter_map(of_assistant)
        .collect();
    if !template.has_generation_tags() && spans.len() == speakers.len() {
        let pairs = speakers.into_iter().zip(spans);
        return Ok(pairs
            .map(|(message, span)| TurnSpan {
                message,
                span: span.clone(),
            })
            .collect());
    }
    let lost = |index| Error::AssistantSpanNotFound {
        template: template.name().to_owned(),
        index,
    };
    let mut turns = Vec::with_capacity(spans.len());
    for &message in &speakers {
        let mut prefix = input.clone();
        prefix.messages = &input.messages[..=message];
        prefix.add_generation_prompt = false;
        let part = template.render_with_spans(&prefix)?;
        let (known, count) = (turns.len(), part.assistant_spans.len());
        let new = spans.get(known..count).ok_or_else(|| lost(message))?;
        let first = |spans: &[Range<usize>]| spans.get(known).map(|span| span.start);
        if count > known && first(&part.assistant_spans) != first(spans) {
            return Err(lost(message));
        }
        turns.extend(new.iter().map(|span| TurnSpan {
            message,
            span: span.clone(),
        }));
    }
    match (turns.len() == spans.len(), speakers.last()) {
        (true, _) => Ok(turns),
        (false, last) => Err(lost(last.copied().unwrap_or_default())),
    }
}

/// For each assistant message whether its `train` or `weight` key says that it is trained; `None` without such a key.
///
/// `weight` is 0 or 1, as in OpenAI's fine-tuning files. On a message of another role, a key that says what the policy
/// does anyway is let pass, and one that contradicts it is an error: only the assistant's text can be told apart.
pub(super) fn train_flags(messages: &[Message], policy: TrainOn) -> Result<Vec<Option<bool>>> {
    let flag = |(index, message): (usize, &Message)| {
        let invalid = |reason: String| Error::InvalidMessage { index, reason };
        let train = match message.extra.get("train") {
            None | Some(Value::Null) => None,
            Some(Value::Bool(train)) => Some(*train),
            Some(other) => {
                return Err(invalid(format!("train must be true or false, got {other}")));
            }
        };
        let weight = match message.extra.get("weight") {
            None | Some(Value::Null) => None,
            Some(other) => match other.as_f64() {
                Some(0.0) => Some(false),
                Some(1.0) => Some(true),
                _ => return Err(invalid(format!("weight must be 0 or 1, got {other}"))),
            },
        };
        match (train, weight) {
            (Some(train), Some(weight)) if train != weight => {
                Err(invalid("train and weight contradict each other".to_owned()))
            }
            (train, weight) if message.role == "assistant" => Ok(train.or(weight)),
            (train, weight) => match (train.or(weight), policy) {
                (Some(true), TrainOn::Assistant | TrainOn::LastTurn) => Err(invalid(format!(
                    "marked as trained, but the role is {:?}, not assistant",
                    message.role
                ))),
                (Some(false), TrainOn::All) => Err(invalid(format!(
                    "marked as not trained, but the role is {:?}, not assistant, and every token is trained",
                    message.role
                ))),
                _ => Ok(None),
            },
        }
    };
    messages.iter().enumerate().map(flag).collect()
}
