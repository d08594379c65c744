//! Asking a judge until its answer can be read, with a store for what it said.

use super::Judge;
use super::report::Failure;
use crate::cache::{AnswerCache, answer_cached};
use crate::error::{Error, Result};
use crate::harness::GenerationOptions;
use crate::model::{ChatTurn, LanguageModel, ModelRequest, ModelResponse};

/// How a judge is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct JudgeOptions {
    /// How often an answer is asked for that cannot be read, at least once.
    pub attempts: usize,
    /// How the judge writes.
    pub generation: GenerationOptions,
    /// Resamples of bootstrap intervals.
    pub resamples: usize,
    /// Seed of the resamples.
    pub seed: u64,
}

impl Default for JudgeOptions {
    fn default() -> Self {
        Self {
            attempts: 3,
            generation: GenerationOptions {
                max_gen_toks: 512,
                ..GenerationOptions::default()
            },
            resamples: 2000,
            seed: 0,
        }
    }
}

/// Letters of an answer that an error shows.
const SHOWN: usize = 200;

/// Has each item judged: an item that cannot be judged is a failure of its own, and when the judge cannot be reached
/// the rest are failures too, with what came before kept.
pub(super) fn judge_each<I, T>(
    items: &[I],
    id: impl Fn(&I) -> &str,
    mut judge: impl FnMut(&I) -> Result<T>,
) -> Result<(Vec<T>, Vec<Failure>)> {
    let (mut judged, mut failures) = (Vec::new(), Vec::new());
    for (index, item) in items.iter().enumerate() {
        match judge(item) {
            Ok(one) => judged.push(one),
            Err(error @ Error::NoVerdict { .. }) => failures.push(Failure::new(id(item), &error)),
            Err(error @ Error::JudgeFailed { .. }) => {
                failures.push(Failure::new(id(item), &error));
                let rest = &items[index + 1..];
                failures.extend(rest.iter().map(|item| Failure::not_asked(id(item))));
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok((judged, failures))
}

/// Asks, and asks again with a reminder while `read` finds nothing.
pub(super) fn ask<T>(
    judge: &dyn Judge,
    item: &str,
    prompt: &[ChatTurn],
    wanted: &str,
    options: &JudgeOptions,
    mut cache: Option<&mut AnswerCache>,
    read: impl Fn(&str) -> Option<T>,
) -> Result<(T, String)> {
    let mut turns = prompt.to_vec();
    let mut answer = String::new();
    let attempts = options.attempts.max(1);
    for attempt in 0..attempts {
        answer = stored(judge, item, &turns, attempt, options, cache.as_deref_mut())?;
        if let Some(verdict) = read(&answer) {
            return Ok((verdict, answer));
        }
        turns.push(ChatTurn {
            role: "assistant".to_owned(),
            content: answer.clone(),
        });
        turns.push(ChatTurn::user(format!(
            "That answer holds no {wanted}. Answer again, and end with the {wanted} in the form asked for."
        )));
    }
    Err(Error::NoVerdict {
        item: item.to_owned(),
        wanted: wanted.to_owned(),
        attempts,
        answer: answer.chars().take(SHOWN).collect(),
    })
}

/// One answer, from the store or from the judge.
fn stored(
    judge: &dyn Judge,
    item: &str,
    turns: &[ChatTurn],
    attempt: usize,
    options: &JudgeOptions,
    cache: Option<&mut AnswerCache>,
) -> Result<String> {
    let request = ModelRequest::GenerateUntil {
        context: serde_json::to_string(turns).unwrap_or_default(),
        options: options.generation.clone(),
        repeat: attempt,
    };
    let asked = Asked {
        judge,
        item,
        turns,
        options,
    };
    let answers = answer_cached(&asked, &[request], cache, &mut |_, _| {})?;
    match answers.into_iter().next() {
        Some(ModelResponse::Text(text)) => Ok(text),
        _ => Ok(String::new()),
    }
}

/// A judge with the conversation it is asked about, as the store sees it.
struct Asked<'a> {
    judge: &'a dyn Judge,
    item: &'a str,
    turns: &'a [ChatTurn],
    options: &'a JudgeOptions,
}

impl LanguageModel for Asked<'_> {
    fn fingerprint(&self) -> String {
        self.judge.name()
    }

    fn answer(
        &self,
        requests: &[ModelRequest],
        answered: &mut dyn FnMut(usize, ModelResponse) -> Result<()>,
    ) -> Result<()> {
        (0..requests.len()).try_for_each(|at| {
            let answer = self.judge.answer(self.turns, &self.options.generation);
            let text = answer.map_err(|reason| Error::JudgeFailed {
                item: self.item.to_owned(),
                judge: self.judge.name(),
                reason,
            })?;
            answered(at, ModelResponse::Text(text))
        })
    }
}
