//! Alpaca: `instruction`, `input`, `output`, with LLaMA-Factory's `system` and `history`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ConvertOptions;
use crate::error::Result;
use crate::example::Example;
use crate::message::{Message, json_kind};
use crate::readers::Record;

/// What an Alpaca record becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AlpacaForm {
    /// A conversation: the user's message is the instruction and, on the next line, the input.
    #[default]
    Messages,
    /// A conversation whose user message keeps the input under the key `input`, which the built-in template `alpaca`
    /// reads. Other templates drop it.
    Keyed,
    /// A completion of one of the two published prompts, without a chat template. Records with a system text or a
    /// history have no such prompt and are refused.
    Prompt,
}

pub(super) fn recognise(row: &Map<String, Value>) -> Option<&'static str> {
    (row.contains_key("instruction") && row.contains_key("output"))
        .then_some("instruction and output")
}

/// # Source
/// - Taori et al. 2023, Stanford Alpaca, `train.py::PROMPT_DICT`: the form with and the form without an input
/// - LLaMA-Factory `data/converter.py::AlpacaDatasetConverter`: instruction and input joined by a line break
pub(super) fn convert(record: &Record, options: &ConvertOptions) -> Result<Vec<Example>> {
    let instruction = record.text("instruction")?;
    let input = record.optional_text("input")?;
    let output = record.text("output")?;
    if options.alpaca == AlpacaForm::Prompt {
        if let Some(key) = ["system", "history"]
            .into_iter()
            .find(|key| !is_empty(record.row.get(*key)))
        {
            return Err(record.invalid(
                "a record that the Alpaca prompt has room for",
                format!("a {key}"),
            ));
        }
        return Ok(vec![Example::Completion {
            prompt: prompt(instruction, input),
            completion: output.to_owned(),
        }]);
    }
    let mut messages = opening(record)?;
    messages.push(match (input, options.alpaca) {
        (Some(input), AlpacaForm::Keyed) => Message::user(instruction).with("input", input),
        _ => Message::user(question(record)?),
    });
    messages.push(Message::assistant(output));
    Ok(vec![Example::Chat {
        messages,
        tools: super::turns::tools(record)?,
    }])
}

/// The instruction and, on the next line, the input.
pub(super) fn question(record: &Record) -> Result<String> {
    let instruction = record.text("instruction")?;
    Ok(match record.optional_text("input")? {
        Some(input) => format!("{instruction}\n{input}"),
        None => instruction.to_owned(),
    })
}

/// The system text and the turns before the instruction.
pub(super) fn opening(record: &Record) -> Result<Vec<Message>> {
    let mut messages = Vec::new();
    if let Some(system) = record.optional_text("system")? {
        messages.push(Message::system(system));
    }
    if is_empty(record.row.get("history")) {
        return Ok(messages);
    }
    for (index, turn) in record.list("history")?.iter().enumerate() {
        match turn.as_array().map(Vec::as_slice) {
            Some([Value::String(question), Value::String(answer)]) => {
                messages.push(Message::user(question));
                messages.push(Message::assistant(answer));
            }
            _ => {
                return Err(record.invalid(
                    format!("a pair of texts in history[{index}]"),
                    json_kind(turn),
                ));
            }
        }
    }
    Ok(messages)
}

fn is_empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.trim().is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(_) => false,
    }
}

fn prompt(instruction: &str, input: Option<&str>) -> String {
    match input {
        Some(input) => format!(
            "Below is an instruction that describes a task, paired with an input that provides further context. \
             Write a response that appropriately completes the request.\n\n\
             ### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
        ),
        None => format!(
            "Below is an instruction that describes a task. \
             Write a response that appropriately completes the request.\n\n\
             ### Instruction:\n{instruction}\n\n### Response:"
        ),
    }
}
