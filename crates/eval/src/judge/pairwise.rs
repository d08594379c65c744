//! Two answers to one question, compared in both orders.

use serde::{Deserialize, Serialize};

use super::ask::{JudgeOptions, ask, judge_each};
use super::length::{LengthControl, length_controlled_win_rate};
use super::report::{BiasReport, Failure, LabelAgreement};
use super::{Judge, read_choice};
use crate::cache::AnswerCache;
use crate::error::Result;
use crate::model::ChatTurn;
use crate::stats::{Interval, Outcome, bootstrap_interval};

/// Two answers to one question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairItem {
    /// Names the item.
    pub id: String,
    /// The question.
    pub prompt: String,
    /// The answer of the first model.
    pub first: String,
    /// The answer of the second model.
    pub second: String,
    /// What a person said, to measure the judge by.
    #[serde(default)]
    pub label: Option<Outcome>,
}

/// What a judge said about a pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PairVerdict {
    /// The item.
    pub id: String,
    /// Who won: one answer in both orders, or a tie.
    pub outcome: Outcome,
    /// Who won when the first answer was shown first.
    pub in_order: Outcome,
    /// Who won when the second answer was shown first, in terms of the models.
    pub swapped: Outcome,
    /// What the judge wrote, in both orders.
    pub explanations: [String; 2],
}

/// Verdicts and what they amount to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PairwiseReport {
    /// The judge.
    pub judge: String,
    /// Pairs that were judged.
    pub verdicts: Vec<PairVerdict>,
    /// Pairs that were not, and why.
    pub failures: Vec<Failure>,
    /// Wins of the first model, of the second, and ties.
    pub counts: [usize; 3],
    /// Win rate of the second model, ties as half; nothing of no verdicts.
    pub win_rate: Option<f64>,
    /// Its 95 % bootstrap interval.
    pub interval: Option<Interval>,
    /// The win rate that remains when both answers are as long.
    pub length_control: Option<LengthControl>,
    /// How far position and length decided.
    pub bias: BiasReport,
    /// Agreement with people, where items have labels.
    pub agreement: Option<LabelAgreement>,
}

/// Compares answers pair by pair, each in both orders: a model wins a pair only when it wins both.
///
/// Pairs that cannot be judged are failures of their own; when the judge cannot be reached, the rest are failures
/// too, with what came before kept.
///
/// # Errors
/// Those of the store.
///
/// # Source
/// Zheng et al. 2023, Judging LLM-as-a-Judge, arXiv:2306.05685, §3.4: swapping positions
pub fn compare_answers(
    judge: &dyn Judge,
    criteria: &str,
    items: &[PairItem],
    options: &JudgeOptions,
    mut cache: Option<&mut AnswerCache>,
) -> Result<PairwiseReport> {
    let (verdicts, failures) = judge_each(
        items,
        |item| item.id.as_str(),
        |item| judge_pair(judge, criteria, item, options, cache.as_deref_mut()),
    )?;
    Ok(summary(judge.name(), items, verdicts, failures, options))
}

fn judge_pair(
    judge: &dyn Judge,
    criteria: &str,
    item: &PairItem,
    options: &JudgeOptions,
    mut cache: Option<&mut AnswerCache>,
) -> Result<PairVerdict> {
    let mut once = |a: &str, b: &str| {
        let prompt = prompt(criteria, &item.prompt, a, b);
        ask(
            judge,
            &item.id,
            &prompt,
            "verdict",
            options,
            cache.as_deref_mut(),
            read_choice,
        )
    };
    let (in_order, explanation) = once(&item.first, &item.second)?;
    let (shown, swapped_explanation) = once(&item.second, &item.first)?;
    let swapped = match shown {
        Outcome::First => Outcome::Second,
        Outcome::Second => Outcome::First,
        Outcome::Tie => Outcome::Tie,
    };
    Ok(PairVerdict {
        id: item.id.clone(),
        outcome: if in_order == swapped {
            in_order
        } else {
            Outcome::Tie
        },
        in_order,
        swapped,
        explanations: [explanation, swapped_explanation],
    })
}

fn summary(
    judge: String,
    items: &[PairItem],
    verdicts: Vec<PairVerdict>,
    failures: Vec<Failure>,
    options: &JudgeOptions,
) -> PairwiseReport {
    let judged: Vec<(&PairItem, &PairVerdict)> = verdicts
        .iter()
        .filter_map(|verdict| Some((items.iter().find(|item| item.id == verdict.id)?, verdict)))
        .collect();
    let count = |wanted: Outcome| {
        verdicts
            .iter()
            .filter(|verdict| verdict.outcome == wanted)
            .count()
    };
    let scores: Vec<f64> = verdicts
        .iter()
        .map(|verdict| 1.0 - verdict.outcome.score())
        .collect();
    let mean = |picked: &[&f64]| picked.iter().copied().sum::<f64>() / picked.len() as f64;
    let win_rate = (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64);
    let differences: Vec<f64> = judged
        .iter()
        .map(|(item, _)| item.second.chars().count() as f64 - item.first.chars().count() as f64)
        .collect();
    PairwiseReport {
        judge,
        counts: [
            count(Outcome::First),
            count(Outcome::Second),
            count(Outcome::Tie),
        ],
        win_rate,
        interval: bootstrap_interval(&scores, options.resamples, 0.95, options.seed, mean),
        length_control: length_controlled_win_rate(&scores, &differences),
        bias: BiasReport::new(&verdicts, &scores, &differences),
        agreement: LabelAgreement::new(
            judged
                .iter()
                .filter_map(|(item, verdict)| Some((item.label?, verdict.outcome))),
        ),
        failures,
        verdicts,
    }
}

fn prompt(criteria: &str, question: &str, a: &str, b: &str) -> Vec<ChatTurn> {
    vec![
        ChatTurn {
            role: "system".to_owned(),
            content: format!(
                "You compare two answers to a question impartially. {criteria} Do not let the order of the answers \
                 or their length sway you. Explain briefly, then end with exactly one of these: [[A]] if answer A is \
                 better, [[B]] if answer B is better, [[C]] for a tie."
            ),
        },
        ChatTurn::user(format!(
            "[Question]\n{question}\n\n[Answer A]\n{a}\n[End of answer A]\n\n[Answer B]\n{b}\n[End of answer B]"
        )),
    ]
}
