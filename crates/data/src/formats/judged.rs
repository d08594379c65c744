//! Answers that are wanted or not, for KTO: TRL's `prompt`, `completion`, `label`, or turns and a label.

use serde_json::{Map, Value};

use super::fields::as_yes_no;
use super::turns::turns;
use crate::error::Result;
use crate::example::Example;
use crate::message::Message;
use crate::readers::Record;

const LABELS: &[&str] = &["label", "kto_tag"];
const TURNS: &[&str] = &["messages", "conversations"];

pub(super) fn recognise(row: &Map<String, Value>) -> Option<&'static str> {
    let label = LABELS.iter().find_map(|key| row.get(*key))?;
    as_yes_no(label)?;
    let pair = row.contains_key("prompt") && row.contains_key("completion");
    let turns = TURNS.iter().any(|key| row.contains_key(*key));
    if pair {
        Some("prompt, completion and a yes-or-no label")
    } else if turns {
        Some("turns and a yes-or-no label")
    } else {
        None
    }
}

/// # Source
/// - TRL documentation, "Dataset formats and types", unpaired preference
/// - LLaMA-Factory `data/README.md`, KTO datasets: the last turn is the answer
pub(super) fn convert(record: &Record) -> Result<Vec<Example>> {
    record.text_only()?;
    let label = record.yes_no(record.first_key(LABELS).unwrap_or(LABELS[0]))?;
    if let Some(key) = record.first_key(TURNS) {
        let mut prompt = turns(record, key, true)?;
        let answer = prompt.pop().filter(|last| last.role == "assistant");
        let Some(answer) = answer else {
            return Err(record.invalid(
                format!("the assistant in the last turn of {key:?}"),
                "another role",
            ));
        };
        return judged(record, prompt, vec![answer], label);
    }
    let (prompt, completion) = if record.value("prompt")?.is_array() {
        (
            turns(record, "prompt", false)?,
            turns(record, "completion", true)?,
        )
    } else {
        (
            vec![Message::user(record.text("prompt")?)],
            vec![Message::assistant(record.text("completion")?)],
        )
    };
    judged(record, prompt, completion, label)
}

fn judged(
    record: &Record,
    prompt: Vec<Message>,
    completion: Vec<Message>,
    label: bool,
) -> Result<Vec<Example>> {
    if prompt.is_empty() {
        return Err(record.invalid("a turn before the answer", "none"));
    }
    Ok(vec![Example::Judged {
        prompt,
        completion,
        label,
    }])
}
