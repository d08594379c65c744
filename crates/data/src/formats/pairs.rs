//! Formats of one question and one answer: FLAN, Orca, WizardLM, prompt and completion.

use serde_json::{Map, Value};

use super::{ConvertOptions, alpaca, sharegpt};
use crate::error::Result;
use crate::example::Example;
use crate::message::Message;
use crate::readers::Record;

pub(super) fn recognise_flan(row: &Map<String, Value>) -> Option<&'static str> {
    (row.contains_key("inputs") && row.contains_key("targets")).then_some("inputs and targets")
}

/// FLAN: `inputs` and `targets`.
pub(super) fn convert_flan(record: &Record) -> Result<Vec<Example>> {
    Ok(vec![chat(
        None,
        record.text("inputs")?,
        record.text("targets")?,
    )])
}

pub(super) fn recognise_orca(row: &Map<String, Value>) -> Option<&'static str> {
    (row.contains_key("question") && row.contains_key("response"))
        .then_some("question and response")
}

/// Orca: `system_prompt`, `question` and `response`.
pub(super) fn convert_orca(record: &Record) -> Result<Vec<Example>> {
    let system = match record.optional_text("system_prompt")? {
        None => record.optional_text("system")?,
        given => given,
    };
    Ok(vec![chat(
        system,
        record.text("question")?,
        record.text("response")?,
    )])
}

/// WizardLM has two published shapes, `instruction` and `output`, or `conversations`; detection calls them by the names
/// of the formats that they share.
pub(super) fn convert_wizardlm(record: &Record, options: &ConvertOptions) -> Result<Vec<Example>> {
    if record.row.contains_key("conversations") {
        sharegpt::convert(record)
    } else {
        alpaca::convert(record, options)
    }
}

pub(super) fn recognise_completion(row: &Map<String, Value>) -> Option<&'static str> {
    (row.contains_key("prompt") && row.contains_key("completion"))
        .then_some("prompt and completion")
}

/// Prompt and completion: texts are continued without a chat template, lists of turns are a conversation.
pub(super) fn convert_completion(record: &Record) -> Result<Vec<Example>> {
    if record.value("prompt")?.is_array() {
        let mut messages = super::turns::turns(record, "prompt", false)?;
        messages.extend(super::turns::turns(record, "completion", true)?);
        return Ok(vec![Example::Chat {
            messages,
            tools: super::turns::tools(record)?,
        }]);
    }
    Ok(vec![Example::Completion {
        prompt: record.text("prompt")?.to_owned(),
        completion: record.text("completion")?.to_owned(),
    }])
}

fn chat(system: Option<&str>, question: &str, answer: &str) -> Example {
    let mut messages: Vec<_> = system.map(Message::system).into_iter().collect();
    messages.push(Message::user(question));
    messages.push(Message::assistant(answer));
    Example::Chat {
        messages,
        tools: None,
    }
}
