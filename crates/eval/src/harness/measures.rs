//! The metrics of a task and how they are put together.

use serde_json::{Map, Value, json};

use super::config::OutputType;
use super::fields::Fields;
use super::functions::ProcessResults;
use crate::error::Result;
use crate::metrics::{
    BleuOptions, ChrfOptions, ExactMatch, ExactMatchOptions, binary_f1, bits_per_byte, bleu,
    brier_score, chrf, matthews_corrcoef, perplexity, weighted_perplexity,
};
use crate::stats::{bootstrap_stderr, mean, mean_stderr};

/// Resamples of metrics that are costly: what the reference takes.
const COSTLY_RESAMPLES: usize = 100;

/// What one document gives a metric.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// A score.
    Number(f64),
    /// A log-likelihood and the words or bytes it is spread over.
    Weighted(f64, f64),
    /// True and predicted class.
    Classes(i64, i64),
    /// True class and the probabilities of all.
    Probabilities(usize, Vec<f64>),
    /// References and a prediction.
    Texts(Vec<String>, String),
}

/// How items become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aggregation {
    Mean,
    Median,
    Perplexity,
    WeightedPerplexity,
    BitsPerByte,
    F1,
    Mcc,
    Bleu,
    Chrf,
    ChrfPlusPlus,
    BrierScore,
}

const AGGREGATIONS: &[(&str, Aggregation)] = &[
    ("mean", Aggregation::Mean),
    ("nanmean", Aggregation::Mean),
    ("median", Aggregation::Median),
    ("perplexity", Aggregation::Perplexity),
    ("weighted_perplexity", Aggregation::WeightedPerplexity),
    ("bits_per_byte", Aggregation::BitsPerByte),
    ("f1", Aggregation::F1),
    ("matthews_corrcoef", Aggregation::Mcc),
    ("bleu", Aggregation::Bleu),
    ("chrf", Aggregation::Chrf),
    ("chrf++", Aggregation::ChrfPlusPlus),
    ("brier_score", Aggregation::BrierScore),
];

/// Names of metrics, what aggregates them, and whether more is better.
const METRICS: &[(&str, Aggregation, bool)] = &[
    ("acc", Aggregation::Mean, true),
    ("acc_norm", Aggregation::Mean, true),
    ("acc_bytes", Aggregation::Mean, true),
    ("acc_mutual_info", Aggregation::Mean, true),
    ("exact_match", Aggregation::Mean, true),
    ("perplexity", Aggregation::Perplexity, false),
    ("word_perplexity", Aggregation::WeightedPerplexity, false),
    ("byte_perplexity", Aggregation::WeightedPerplexity, false),
    ("bits_per_byte", Aggregation::BitsPerByte, false),
    ("f1", Aggregation::F1, true),
    ("mcc", Aggregation::Mcc, true),
    ("brier_score", Aggregation::BrierScore, false),
    ("bleu", Aggregation::Bleu, true),
    ("chrf", Aggregation::Chrf, true),
    ("chrf++", Aggregation::ChrfPlusPlus, true),
    ("rouge1", Aggregation::Mean, true),
    ("rouge2", Aggregation::Mean, true),
    ("rougeL", Aggregation::Mean, true),
    ("rougeLsum", Aggregation::Mean, true),
    ("squad_f1", Aggregation::Mean, true),
    ("squad_exact_match", Aggregation::Mean, true),
];

/// One metric of a task.
#[derive(Debug, Clone)]
pub(crate) struct Measure {
    pub(crate) name: String,
    pub(crate) aggregation: Aggregation,
    pub(crate) higher_is_better: bool,
    /// Options of `exact_match`, compiled.
    pub(crate) exact_match: Option<ExactMatch>,
}

impl Measure {
    /// Reads `metric_list`; without one, what the output type is usually scored by.
    pub(crate) fn list(
        fields: &mut Fields<'_>,
        output_type: OutputType,
        process_results: Option<ProcessResults>,
    ) -> Result<Vec<Self>> {
        let entries = match fields.mappings("metric_list")? {
            Some(entries) => entries,
            None => {
                let names: &[&str] = match output_type {
                    OutputType::Loglikelihood => &["perplexity", "acc"],
                    OutputType::LoglikelihoodRolling => {
                        &["word_perplexity", "byte_perplexity", "bits_per_byte"]
                    }
                    OutputType::MultipleChoice => &["acc", "acc_norm"],
                    OutputType::GenerateUntil => &["exact_match"],
                };
                names
                    .iter()
                    .map(|name| Map::from_iter([("metric".to_owned(), json!(name))]))
                    .collect()
            }
        };
        entries
            .iter()
            .enumerate()
            .map(|(index, entry)| Self::new(fields, index, entry, output_type, process_results))
            .collect()
    }

    fn new(
        fields: &Fields<'_>,
        index: usize,
        entry: &Map<String, Value>,
        output_type: OutputType,
        process_results: Option<ProcessResults>,
    ) -> Result<Self> {
        let at = |key: &str| format!("metric_list[{index}].{key}");
        let value = entry
            .get("metric")
            .ok_or_else(|| fields.missing(&at("metric")))?;
        fields.refuse_function(&at("metric"), value)?;
        let name = value.as_str().unwrap_or_default();
        let known = METRICS.iter().find(|(known, ..)| *known == name);
        let hint = || {
            let names: Vec<&str> = METRICS.iter().map(|(name, ..)| *name).collect();
            format!("known metrics are {}", names.join(", "))
        };
        let &(_, mut aggregation, mut higher_is_better) =
            known.ok_or_else(|| fields.unsupported(&at("metric"), value, &hint()))?;
        let fits = match output_type {
            OutputType::Loglikelihood => matches!(name, "perplexity" | "acc"),
            OutputType::LoglikelihoodRolling => {
                matches!(
                    name,
                    "word_perplexity" | "byte_perplexity" | "bits_per_byte"
                )
            }
            OutputType::MultipleChoice => matches!(
                name,
                "acc"
                    | "acc_norm"
                    | "acc_bytes"
                    | "acc_mutual_info"
                    | "exact_match"
                    | "f1"
                    | "mcc"
                    | "brier_score"
            ),
            OutputType::GenerateUntil => matches!(
                name,
                "exact_match"
                    | "bleu"
                    | "chrf"
                    | "chrf++"
                    | "rouge1"
                    | "rouge2"
                    | "rougeL"
                    | "rougeLsum"
                    | "squad_f1"
                    | "squad_exact_match"
            ),
        };
        if !fits && process_results.is_none() {
            let hint = format!(
                "an answer of the type {} gives it nothing",
                output_type.name()
            );
            return Err(fields.unsupported(&at("metric"), value, &hint));
        }
        if let Some(value) = entry.get("aggregation").filter(|value| !value.is_null()) {
            let found = AGGREGATIONS
                .iter()
                .find(|(known, _)| value.as_str() == Some(*known));
            let names = || {
                AGGREGATIONS
                    .iter()
                    .map(|(name, _)| *name)
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            aggregation = found
                .ok_or_else(|| {
                    fields.unsupported(&at("aggregation"), value, &format!("known are {}", names()))
                })?
                .1;
        }
        if let Some(value) = entry
            .get("higher_is_better")
            .filter(|value| !value.is_null())
        {
            higher_is_better = value
                .as_bool()
                .ok_or_else(|| fields.invalid(&at("higher_is_better"), "true or false", value))?;
        }
        let exact_match = if name == "exact_match" {
            Some(exact_match(fields, index, entry)?)
        } else {
            None
        };
        Ok(Self {
            name: name.to_owned(),
            aggregation,
            higher_is_better,
            exact_match,
        })
    }

    /// The value of the metric over its items; `Err` says what kind of item does not fit.
    pub(crate) fn aggregate(&self, items: &[Item]) -> Result<f64, &'static str> {
        let all: Vec<&Item> = items.iter().collect();
        self.aggregation.of(&all)
    }

    /// The standard error, where the reference reports one.
    pub(crate) fn stderr(&self, items: &[Item], resamples: usize) -> Option<f64> {
        if items.len() < 2 || resamples == 0 {
            return None;
        }
        let resamples = match self.name.as_str() {
            "bleu" | "chrf" | "chrf++" => resamples.min(COSTLY_RESAMPLES),
            _ => resamples,
        };
        let aggregation = self.aggregation;
        match aggregation {
            Aggregation::Mean => Some(mean_stderr(
                &numbers(&items.iter().collect::<Vec<_>>()).ok()?,
            )),
            Aggregation::WeightedPerplexity
            | Aggregation::BitsPerByte
            | Aggregation::BrierScore => None,
            // A resample holds what the whole holds, so what the whole allows each resample does.
            _ => Some(bootstrap_stderr(items, resamples, |picked| {
                aggregation.of(picked).unwrap_or(f64::NAN)
            })),
        }
    }
}

impl Item {
    /// A number per document, for comparing two models item by item: larger is better if the metric says so.
    pub(crate) fn comparable(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            // Nats per word or byte, with the sign of a loss.
            Self::Weighted(loglikelihood, weight) => Some(-loglikelihood / weight),
            Self::Classes(truth, predicted) => Some(f64::from(u8::from(truth == predicted))),
            Self::Probabilities(class, p) => brier_score(&[*class], std::slice::from_ref(p)),
            Self::Texts(..) => None,
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        match self {
            Self::Number(number) => json!(number),
            Self::Weighted(loglikelihood, weight) => json!([loglikelihood, weight]),
            Self::Classes(truth, predicted) => json!([truth, predicted]),
            Self::Probabilities(class, p) => json!([class, p]),
            Self::Texts(references, prediction) => json!([references, prediction]),
        }
    }
}

impl Aggregation {
    fn of(self, items: &[&Item]) -> Result<f64, &'static str> {
        match self {
            Self::Mean => Ok(mean(&numbers(items)?)),
            Self::Median => {
                let mut numbers = numbers(items)?;
                numbers.sort_by(f64::total_cmp);
                Ok(numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN))
            }
            Self::Perplexity => Ok(perplexity(&numbers(items)?)),
            Self::WeightedPerplexity => Ok(weighted_perplexity(&weighted(items)?)),
            Self::BitsPerByte => Ok(bits_per_byte(&weighted(items)?)),
            Self::F1 => classes(items).map(|(truth, predicted)| binary_f1(&truth, &predicted)),
            Self::Mcc => {
                classes(items).map(|(truth, predicted)| matthews_corrcoef(&truth, &predicted))
            }
            Self::Bleu => texts(items).map(|(references, predictions)| {
                bleu(&predictions, &references, &BleuOptions::default()).score
            }),
            Self::Chrf => texts(items).map(|(references, predictions)| {
                chrf(&predictions, &references, &ChrfOptions::default())
            }),
            Self::ChrfPlusPlus => texts(items).map(|(references, predictions)| {
                chrf(&predictions, &references, &ChrfOptions::plus_plus())
            }),
            Self::BrierScore => {
                let (mut truth, mut probabilities) = (Vec::new(), Vec::new());
                for item in items {
                    let Item::Probabilities(class, p) = item else {
                        return Err("needs classes and probabilities");
                    };
                    truth.push(*class);
                    probabilities.push(p.clone());
                }
                brier_score(&truth, &probabilities).ok_or("needs a gold answer among the choices")
            }
        }
    }
}

fn numbers(items: &[&Item]) -> Result<Vec<f64>, &'static str> {
    items
        .iter()
        .map(|item| match item {
            Item::Number(number) => Ok(*number),
            _ => Err("needs one number a document"),
        })
        .collect()
}

fn weighted(items: &[&Item]) -> Result<Vec<(f64, f64)>, &'static str> {
    items
        .iter()
        .map(|item| match item {
            Item::Weighted(loglikelihood, weight) => Ok((*loglikelihood, *weight)),
            _ => Err("needs a log-likelihood and a length a document"),
        })
        .collect()
}

fn classes(items: &[&Item]) -> Result<(Vec<i64>, Vec<i64>), &'static str> {
    items
        .iter()
        .map(|item| match item {
            Item::Classes(truth, predicted) => Ok((*truth, *predicted)),
            _ => Err("needs one true and one predicted class a document"),
        })
        .collect()
}

type Texts<'i> = (Vec<Vec<&'i str>>, Vec<&'i str>);

fn texts<'i>(items: &[&'i Item]) -> Result<Texts<'i>, &'static str> {
    items
        .iter()
        .map(|item| match item {
            Item::Texts(references, prediction) => Ok((
                references.iter().map(String::as_str).collect(),
                prediction.as_str(),
            )),
            _ => Err("needs references and a prediction a document"),
        })
        .collect()
}

fn exact_match(
    fields: &Fields<'_>,
    index: usize,
    entry: &Map<String, Value>,
) -> Result<ExactMatch> {
    let field = format!("metric_list[{index}]");
    let mut options = ExactMatchOptions::default();
    for (key, value) in entry {
        let at = format!("{field}.{key}");
        let flag = || {
            value
                .as_bool()
                .ok_or_else(|| fields.invalid(&at, "true or false", value))
        };
        match key.as_str() {
            "metric" | "aggregation" | "higher_is_better" | "hf_evaluate" => {}
            _ if value.is_null() => {}
            "ignore_case" => options.ignore_case = flag()?,
            "ignore_punctuation" => options.ignore_punctuation = flag()?,
            "ignore_numbers" => options.ignore_numbers = flag()?,
            "regexes_to_ignore" => {
                let patterns = value.as_array().and_then(|list| {
                    list.iter()
                        .map(|one| one.as_str().map(str::to_owned))
                        .collect::<Option<Vec<_>>>()
                });
                options.regexes_to_ignore =
                    patterns.ok_or_else(|| fields.invalid(&at, "a list of patterns", value))?;
            }
            _ => return Err(fields.unsupported(&at, value, "it is no option of exact_match")),
        }
    }
    ExactMatch::new(&options).map_err(|error| {
        let reason = error.to_string();
        let reason = reason.lines().last().unwrap_or_default().to_owned();
        fields.unsupported(
            &format!("{field}.regexes_to_ignore"),
            &json!(options.regexes_to_ignore),
            &reason,
        )
    })
}
