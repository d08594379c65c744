//! From answers to what each document gives each metric.

use serde_json::{Value, json};

use super::config::OutputType;
use super::document::Document;
use super::functions::{ProcessResults, truthfulqa_mc2};
use super::measures::{Item, Measure};
use super::task::Task;
use crate::error::{Error, Result};
use crate::metrics::{Rouge, count_words, rouge, squad_exact_match, squad_f1};
use crate::model::ModelResponse;
use crate::python::{python_repr, python_str};

/// What a document gave each metric, in the order of the task's list.
pub(crate) type Items = Vec<(usize, Item)>;

/// Scores one document whose requests were answered with `responses` (likelihoods) or `filtered` (text).
pub(crate) fn score(
    task: &Task,
    doc: &Document,
    index: usize,
    responses: &[ModelResponse],
    filtered: &Value,
    warnings: &mut Vec<String>,
) -> Result<Items> {
    match task.output_type() {
        OutputType::Loglikelihood => Ok(loglikelihood(task, responses)),
        OutputType::LoglikelihoodRolling => rolling(task, doc, index, responses),
        OutputType::MultipleChoice => multiple_choice(task, doc, index, responses, warnings),
        OutputType::GenerateUntil => generated(task, doc, index, filtered),
    }
}

/// Pairs of likelihood and greediness.
fn likelihoods(responses: &[ModelResponse]) -> (Vec<f64>, Vec<bool>) {
    responses
        .iter()
        .filter_map(|response| match response {
            ModelResponse::Loglikelihood { value, is_greedy } => Some((*value, *is_greedy)),
            _ => None,
        })
        .unzip()
}

fn each(task: &Task, item: impl Fn(&Measure) -> Option<Item>) -> Items {
    task.config
        .measures
        .iter()
        .enumerate()
        .filter_map(|(at, measure)| Some((at, item(measure)?)))
        .collect()
}

fn loglikelihood(task: &Task, responses: &[ModelResponse]) -> Items {
    let (values, greedy) = likelihoods(responses);
    let (value, greedy) = (
        values.first().copied().unwrap_or(f64::NAN),
        greedy.first().copied().unwrap_or(false),
    );
    each(task, |measure| match measure.name.as_str() {
        "perplexity" => Some(Item::Number(value)),
        "acc" => Some(Item::Number(f64::from(u8::from(greedy)))),
        _ => None,
    })
}

fn rolling(
    task: &Task,
    doc: &Document,
    index: usize,
    responses: &[ModelResponse],
) -> Result<Items> {
    let value = match responses.first() {
        Some(ModelResponse::LoglikelihoodRolling(value)) => *value,
        _ => f64::NAN,
    };
    let text = python_str(&task.doc_to_target(doc, index)?);
    let (words, bytes) = (count_words(&text) as f64, text.len() as f64);
    Ok(each(task, |measure| match measure.name.as_str() {
        "word_perplexity" => Some(Item::Weighted(value, words)),
        "byte_perplexity" | "bits_per_byte" => Some(Item::Weighted(value, bytes)),
        _ => None,
    }))
}

/// The first of the largest values, as `numpy.argmax` finds it; a NaN counts as largest.
fn argmax(values: impl Iterator<Item = f64>) -> usize {
    let (mut best, mut most) = (0, f64::NEG_INFINITY);
    for (at, value) in values.enumerate() {
        if value.is_nan() {
            return at;
        }
        if value > most {
            (best, most) = (at, value);
        }
    }
    best
}

fn multiple_choice(
    task: &Task,
    doc: &Document,
    index: usize,
    responses: &[ModelResponse],
    warnings: &mut Vec<String>,
) -> Result<Items> {
    let (values, greedy) = likelihoods(responses);
    let choices = task.doc_to_choice(doc, index)?;
    let (conditional, unconditional) = values.split_at(choices.len().min(values.len()));
    if let Some(ProcessResults::TruthfulqaMc2) = task.config.process_results {
        let share = truthfulqa_mc2(&doc.row, conditional).ok_or_else(|| Error::InvalidField {
            at: Box::new(task.at("process_results", doc, index)),
            field: "mc2_targets.labels".to_owned(),
            expected: format!("a list of {} labels", conditional.len()),
            got: doc
                .row
                .get("mc2_targets")
                .map_or("nothing".into(), python_repr),
        })?;
        return Ok(each(task, |_| Some(Item::Number(share))));
    }
    let gold_value = if task.multiple_input {
        task.doc_to_text(doc, index)?
    } else {
        task.doc_to_target(doc, index)?
    };
    let gold = task.gold(&gold_value, &choices);
    if gold.contains(&None) {
        let place = task.at("doc_to_target", doc, index);
        warnings.push(format!(
            "{place}: the answer {} is none of the {} choices, so it counts as wrong",
            python_repr(&gold_value),
            choices.len()
        ));
    }
    let is_right = |predicted: usize| gold.contains(&Some(predicted));
    let characters = choices.iter().map(|choice| choice.chars().count() as f64);
    let bytes = choices.iter().map(|choice| choice.len() as f64);
    let per = |lengths: &mut dyn Iterator<Item = f64>| {
        argmax(
            conditional
                .iter()
                .zip(lengths)
                .map(|(value, length)| value / length),
        )
    };
    let predicted = argmax(conditional.iter().copied());
    let by_characters = per(&mut characters.clone());
    let by_bytes = per(&mut bytes.clone());
    let by_information = argmax(
        conditional
            .iter()
            .zip(unconditional)
            .map(|(with, without)| with - without),
    );
    let flag = |right: bool| Some(Item::Number(f64::from(u8::from(right))));
    let one_gold = || match gold.as_slice() {
        [Some(gold)] => Some(*gold),
        _ => None,
    };
    let class = |at: Option<usize>| at.and_then(|at| i64::try_from(at).ok()).unwrap_or(-100);
    Ok(each(task, |measure| match measure.name.as_str() {
        "acc" => flag(is_right(predicted)),
        "acc_norm" => flag(is_right(by_characters)),
        "acc_bytes" => flag(is_right(by_bytes)),
        "acc_mutual_info" => flag(is_right(by_information)),
        "exact_match" => flag(
            gold.iter()
                .flatten()
                .any(|&at| greedy.get(at) == Some(&true)),
        ),
        "f1" | "mcc" => Some(Item::Classes(class(one_gold()), class(Some(predicted)))),
        "brier_score" => Some(Item::Probabilities(
            one_gold().unwrap_or(usize::MAX),
            softmax(conditional),
        )),
        _ => None,
    }))
}

fn softmax(values: &[f64]) -> Vec<f64> {
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = values.iter().map(|value| (value - most).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

fn generated(task: &Task, doc: &Document, index: usize, filtered: &Value) -> Result<Items> {
    let gold = task.doc_to_target(doc, index)?;
    let gold: Vec<String> = if task.config.doc_to_choice.is_some() {
        let choices = task.doc_to_choice(doc, index)?;
        vec![task.answer_text(&gold, Some(&choices), doc, index)?]
    } else {
        match &gold {
            Value::Array(many) => many.iter().map(python_str).collect(),
            one => vec![python_str(one)],
        }
    };
    // A pipeline that keeps several answers leaves a list.
    let predictions: Vec<String> = match filtered {
        Value::Array(many) => many.iter().map(python_str).collect(),
        Value::Null => vec![String::new()],
        one => vec![python_str(one)],
    };
    let first = predictions.first().cloned().unwrap_or_default();
    let best = |score: &dyn Fn(&str) -> f64| {
        Some(Item::Number(
            gold.iter().map(|gold| score(gold)).fold(0.0, f64::max),
        ))
    };
    let which = |which: Rouge| best(&|gold| rouge(&first, gold, which, true).fmeasure);
    Ok(each(task, |measure| match measure.name.as_str() {
        "exact_match" => {
            let matcher = measure.exact_match.as_ref()?;
            let hits = |gold: &str| {
                predictions
                    .iter()
                    .filter(|own| matcher.matches(own, gold))
                    .count()
            };
            let value = if task.multiple_target {
                f64::from(u8::from(gold.iter().any(|gold| hits(gold) > 0)))
            } else {
                let hits = gold.first().map_or(0, |gold| hits(gold));
                hits as f64 / predictions.len().max(1) as f64
            };
            Some(Item::Number(value))
        }
        "bleu" | "chrf" | "chrf++" => Some(Item::Texts(gold.clone(), first.clone())),
        "rouge1" => which(Rouge::N(1)),
        "rouge2" => which(Rouge::N(2)),
        "rougeL" => which(Rouge::L),
        "rougeLsum" => which(Rouge::Lsum),
        "squad_f1" => best(&|gold| squad_f1(&first, gold)),
        "squad_exact_match" => best(&|gold| f64::from(u8::from(squad_exact_match(&first, gold)))),
        _ => None,
    }))
}

/// A response as it is logged.
pub(crate) fn response_json(response: &ModelResponse) -> Value {
    match response {
        ModelResponse::Loglikelihood { value, is_greedy } => json!([value, is_greedy]),
        ModelResponse::LoglikelihoodRolling(value) => json!(value),
        ModelResponse::Text(text) => json!(text),
    }
}
