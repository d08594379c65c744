//! One answer at a time, rated against a rubric.

use serde::{Deserialize, Serialize};

use super::ask::{JudgeOptions, ask, judge_each};
use super::report::Failure;
use super::{Judge, read_score};
use crate::cache::AnswerCache;
use crate::error::Result;
use crate::model::ChatTurn;
use crate::stats::{Distance, Interval, bootstrap_interval, krippendorff_alpha, mean, mean_stderr};

/// What a judge looks for and on which scale.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rubric {
    /// What makes an answer good, in words to the judge.
    pub criteria: String,
    /// Lowest score.
    #[serde(default = "one")]
    pub low: f64,
    /// Highest score.
    #[serde(default = "ten")]
    pub high: f64,
}

fn one() -> f64 {
    1.0
}

fn ten() -> f64 {
    10.0
}

impl Default for Rubric {
    fn default() -> Self {
        Self {
            criteria: "Consider how helpful, relevant, accurate and clear the answer is. \
                       Length alone is no merit."
                .to_owned(),
            low: one(),
            high: ten(),
        }
    }
}

/// An answer to be rated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RatedItem {
    /// Names the item.
    pub id: String,
    /// The question.
    pub prompt: String,
    /// The answer.
    pub answer: String,
    /// A right answer to compare with, if there is one.
    #[serde(default)]
    pub reference: Option<String>,
    /// What a person gave it, to measure the judge by.
    #[serde(default)]
    pub label: Option<f64>,
}

/// A score with its reasons.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rating {
    /// The item.
    pub id: String,
    /// The score.
    pub score: f64,
    /// All that the judge wrote.
    pub explanation: String,
}

/// Ratings and what they amount to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RatingReport {
    /// The judge.
    pub judge: String,
    /// Items that were rated.
    pub ratings: Vec<Rating>,
    /// Items that were not, and why.
    pub failures: Vec<Failure>,
    /// Mean score; nothing of no ratings.
    pub mean: Option<f64>,
    /// Its standard error; nothing of fewer than two ratings.
    pub stderr: Option<f64>,
    /// Its 95 % bootstrap interval.
    pub interval: Option<Interval>,
    /// Correlation of score and length of the answer, in letters.
    pub length_correlation: Option<f64>,
    /// Krippendorff's α (interval) of judge and labels, where there are labels.
    pub label_alpha: Option<f64>,
}

/// Rates answers one by one; an answer that cannot be rated is a failure of its own, and when the judge cannot be
/// reached the rest are failures too, with what came before kept.
///
/// # Errors
/// Those of the store.
///
/// # Source
/// Zheng et al. 2023, Judging LLM-as-a-Judge, arXiv:2306.05685, §3.1 and appendix A: single answer grading
pub fn rate_answers(
    judge: &dyn Judge,
    rubric: &Rubric,
    items: &[RatedItem],
    options: &JudgeOptions,
    mut cache: Option<&mut AnswerCache>,
) -> Result<RatingReport> {
    let (ratings, failures) = judge_each(
        items,
        |item| item.id.as_str(),
        |item| {
            let prompt = prompt(rubric, item);
            let read = |answer: &str| read_score(answer, rubric.low, rubric.high);
            let cache = cache.as_deref_mut();
            let (score, explanation) =
                ask(judge, &item.id, &prompt, "score", options, cache, read)?;
            Ok(Rating {
                id: item.id.clone(),
                score,
                explanation,
            })
        },
    )?;
    Ok(summary(judge.name(), items, ratings, failures, options))
}

fn summary(
    judge: String,
    items: &[RatedItem],
    ratings: Vec<Rating>,
    failures: Vec<Failure>,
    options: &JudgeOptions,
) -> RatingReport {
    let scores: Vec<f64> = ratings.iter().map(|rating| rating.score).collect();
    let of = |rating: &Rating| items.iter().find(|item| item.id == rating.id);
    let lengths: Vec<f64> = ratings
        .iter()
        .filter_map(|rating| Some(of(rating)?.answer.chars().count() as f64))
        .collect();
    let labelled: Vec<Vec<f64>> = ratings
        .iter()
        .filter_map(|rating| Some(vec![rating.score, of(rating)?.label?]))
        .collect();
    let mean_of = |picked: &[&f64]| picked.iter().copied().sum::<f64>() / picked.len() as f64;
    RatingReport {
        judge,
        failures,
        mean: (!scores.is_empty()).then(|| mean(&scores)),
        stderr: (scores.len() > 1).then(|| mean_stderr(&scores)),
        interval: bootstrap_interval(&scores, options.resamples, 0.95, options.seed, mean_of),
        length_correlation: super::length::correlation(&scores, &lengths),
        label_alpha: krippendorff_alpha(&labelled, Distance::Interval),
        ratings,
    }
}

fn prompt(rubric: &Rubric, item: &RatedItem) -> Vec<ChatTurn> {
    let (low, high) = (rubric.low, rubric.high);
    let reference = item
        .reference
        .as_ref()
        .map_or_else(String::new, |reference| {
            format!("[Reference answer]\n{reference}\n[End of the reference answer]\n\n")
        });
    vec![
        ChatTurn {
            role: "system".to_owned(),
            content: format!(
                "You rate answers impartially. {} Explain briefly, then give a score from {low} to {high} \
                 in exactly this form: Rating: [[{low}]].",
                rubric.criteria
            ),
        },
        ChatTurn::user(format!(
            "[Question]\n{}\n\n{reference}[Answer]\n{}\n[End of the answer]",
            item.prompt, item.answer
        )),
    ]
}
