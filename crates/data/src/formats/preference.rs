//! Preference pairs: `chosen` and `rejected`, with or without a `prompt`, as text or as turns.

use serde_json::{Map, Value};

use super::alpaca;
use super::turns::{message, turns};
use crate::error::Result;
use crate::example::Example;
use crate::message::{Message, json_kind};
use crate::readers::Record;

const TURNS: &[&str] = &["conversations", "messages"];
const PROMPTS: &[&str] = &["prompt", "question"];

/// What opens the turns of a transcript in one text, as the HH-RLHF dataset writes it.
const HUMAN: &str = "\n\nHuman:";
const ASSISTANT: &str = "\n\nAssistant:";

pub(super) fn recognise(row: &Map<String, Value>) -> Option<&'static str> {
    (row.contains_key("chosen") && row.contains_key("rejected")).then_some("chosen and rejected")
}

/// # Source
/// - TRL documentation, "Dataset formats and types", preference, and `trl.data_utils.extract_prompt`: where no prompt is
///   named, it is what both answers begin with
/// - LLaMA-Factory `data/README.md`, preference datasets: turns and one message each in `chosen` and `rejected`
/// - differs: texts become messages of the user and the assistant; identical answers are refused
pub(super) fn convert(record: &Record) -> Result<Vec<Example>> {
    record.text_only()?;
    let (prompt, chosen, rejected) = match (record.value("chosen")?, record.value("rejected")?) {
        (Value::String(_), Value::String(_)) => texts(record)?,
        (Value::Array(_), Value::Array(_)) => lists(record)?,
        (chosen @ Value::Object(_), rejected @ Value::Object(_)) => (
            explicit_prompt(record)?,
            vec![message(record, "chosen", chosen)?],
            vec![message(record, "rejected", rejected)?],
        ),
        (chosen, rejected) => {
            return Err(record.invalid(
                "\"chosen\" and \"rejected\" both as text, as a turn or as a list of turns",
                format!("{} and {}", json_kind(chosen), json_kind(rejected)),
            ));
        }
    };
    if prompt.is_empty() {
        return Err(record.invalid("a prompt, or one that both answers begin with", "none"));
    }
    if chosen == rejected {
        return Err(record.invalid("answers that differ", "the same answer twice"));
    }
    Ok(vec![Example::Preference {
        prompt,
        chosen,
        rejected,
        margin: margin(record)?,
    }])
}

type Pair = (Vec<Message>, Vec<Message>, Vec<Message>);

fn texts(record: &Record) -> Result<Pair> {
    let (chosen, rejected) = (record.text("chosen")?, record.text("rejected")?);
    let has_prompt = record.first_key(PROMPTS).is_some()
        || record.first_key(TURNS).is_some()
        || record.row.contains_key("instruction");
    if has_prompt {
        return Ok((
            explicit_prompt(record)?,
            vec![Message::assistant(chosen)],
            vec![Message::assistant(rejected)],
        ));
    }
    if chosen == rejected {
        return Err(record.invalid("answers that differ", "the same answer twice"));
    }
    let shared = shared_text(chosen, rejected);
    // In a transcript the answer is the last turn, even where both begin with the same words.
    let end = match shared.rfind(ASSISTANT) {
        Some(start) => start + ASSISTANT.len(),
        None => shared.len(),
    };
    Ok((
        transcript(&chosen[..end]),
        vec![Message::assistant(chosen[end..].trim_start())],
        vec![Message::assistant(rejected[end..].trim_start())],
    ))
}

fn lists(record: &Record) -> Result<Pair> {
    let mut chosen = turns(record, "chosen", true)?;
    let mut rejected = turns(record, "rejected", true)?;
    let shared = chosen
        .iter()
        .zip(&rejected)
        .take_while(|(chosen, rejected)| chosen == rejected)
        .count();
    if shared == chosen.len() || shared == rejected.len() {
        return Err(record.invalid("answers that differ", "one that the other begins with"));
    }
    if shared == 0 {
        return Ok((explicit_prompt(record)?, chosen, rejected));
    }
    // Both lists hold the whole conversation; a prompt beside them repeats its beginning.
    let prompt = chosen.drain(..shared).collect();
    rejected.drain(..shared);
    Ok((prompt, chosen, rejected))
}

/// The prompt that stands beside the answers.
fn explicit_prompt(record: &Record) -> Result<Vec<Message>> {
    if let Some(key) = record.first_key(TURNS) {
        let mut messages = system(record)?;
        messages.extend(turns(record, key, false)?);
        return Ok(messages);
    }
    if let Some(key) = record.first_key(PROMPTS) {
        if record.value(key)?.is_array() {
            return turns(record, key, false);
        }
        let mut messages = system(record)?;
        messages.push(Message::user(record.text(key)?));
        return Ok(messages);
    }
    if record.row.contains_key("instruction") {
        let mut messages = alpaca::opening(record)?;
        messages.push(Message::user(alpaca::question(record)?));
        return Ok(messages);
    }
    Err(record.missing("prompt"))
}

fn system(record: &Record) -> Result<Vec<Message>> {
    let system = record.optional_text("system")?;
    Ok(system.map(Message::system).into_iter().collect())
}

/// By how much the chosen answer is better: `margin`, or the difference of `score_chosen` and `score_rejected`.
fn margin(record: &Record) -> Result<Option<f32>> {
    let number = |key: &str| match record.row.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_f64() {
            Some(number) => Ok(Some(number)),
            None => Err(record.invalid(format!("a number in {key:?}"), json_kind(value))),
        },
    };
    let margin = match (
        number("margin")?,
        number("score_chosen")?,
        number("score_rejected")?,
    ) {
        (Some(margin), ..) => Some(margin),
        (None, Some(chosen), Some(rejected)) => Some(chosen - rejected),
        _ => None,
    };
    #[allow(
        clippy::cast_possible_truncation,
        reason = "a margin needs no more digits than the loss it enters"
    )]
    Ok(margin.map(|margin| margin as f32))
}

/// What both texts begin with, without the spaces at its end.
fn shared_text<'a>(first: &'a str, second: &str) -> &'a str {
    let end = first
        .char_indices()
        .zip(second.chars())
        .find(|((_, a), b)| a != b)
        .map_or(first.len().min(second.len()), |((index, _), _)| index);
    first[..end].trim_end_matches(' ')
}

/// A question, or a conversation whose first turn has no mark.
pub(super) fn conversation(text: &str) -> Vec<Message> {
    match text.contains(ASSISTANT) && !text.starts_with(HUMAN) {
        true => transcript(&format!("{HUMAN} {text}")),
        false => transcript(text),
    }
}

/// The turns of a transcript; a text without marks is one turn of the user.
fn transcript(text: &str) -> Vec<Message> {
    if !text.starts_with(HUMAN) {
        let text = text.trim();
        return (!text.is_empty())
            .then(|| Message::user(text))
            .into_iter()
            .collect();
    }
    let mut messages = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (role, after) = match rest.strip_prefix(HUMAN) {
            Some(after) => ("user", after),
            None => ("assistant", rest.strip_prefix(ASSISTANT).unwrap_or(rest)),
        };
        let end = [HUMAN, ASSISTANT]
            .iter()
            .filter_map(|mark| after.find(mark))
            .min()
            .unwrap_or(after.len());
        let said = after[..end].trim();
        if !said.is_empty() {
            messages.push(Message::new(role, said));
        }
        rest = &after[end..];
    }
    messages
}
