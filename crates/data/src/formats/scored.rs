//! Answers with scores: BIG-bench's `input` and `target_scores`.

use serde_json::{Map, Value};

use super::preference::conversation;
use crate::error::Result;
use crate::example::Example;
use crate::message::{Message, json_kind};
use crate::readers::Record;

pub(super) fn recognise(row: &Map<String, Value>) -> Option<&'static str> {
    let scored = row.get("target_scores").is_some_and(Value::is_object);
    (scored && row.contains_key("input")).then_some("input and target_scores")
}

/// Each of the best answers is preferred to each that has a lower score.
///
/// # Source
/// - Srivastava et al. 2022, Beyond the Imitation Game, arXiv:2206.04615: multiple-choice tasks in JSON
pub(super) fn convert(record: &Record) -> Result<Vec<Example>> {
    record.text_only()?;
    let prompt = conversation(record.text("input")?);
    let answers = answers(record)?;
    let best = answers.iter().map(|(_, score)| *score);
    let best = best.fold(f64::NEG_INFINITY, f64::max);
    let (good, others): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|(_, score)| *score >= best);
    let mut examples = Vec::with_capacity(good.len() * others.len());
    for (chosen, _) in &good {
        for (rejected, _) in &others {
            examples.push(Example::Preference {
                prompt: prompt.clone(),
                chosen: vec![Message::assistant(*chosen)],
                rejected: vec![Message::assistant(*rejected)],
                margin: None,
            });
        }
    }
    match examples.is_empty() {
        true => Err(record.invalid(
            "answers of different scores in \"target_scores\"",
            format!("{} answers of one score", good.len()),
        )),
        false => Ok(examples),
    }
}

fn answers(record: &Record) -> Result<Vec<(&str, f64)>> {
    let scores = record.value("target_scores")?;
    let Value::Object(scores) = scores else {
        let expected = "answers and their scores in \"target_scores\"";
        return Err(record.invalid(expected, json_kind(scores)));
    };
    let answer = |(answer, score): (&'_ String, &Value)| match score.as_f64() {
        _ if answer.trim().is_empty() => Err(record.invalid(
            "text in the answers of \"target_scores\"",
            "an empty string",
        )),
        Some(score) => Ok(score),
        None => Err(record.invalid(format!("a number for {answer:?}"), json_kind(score))),
    };
    scores
        .iter()
        .map(|entry| Ok((entry.0.trim(), answer(entry)?)))
        .collect()
}
