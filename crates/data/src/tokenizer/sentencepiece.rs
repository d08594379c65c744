//! Byte-pair merges of a SentencePiece vocabulary.
//!
//! SentencePiece joins the neighbours whose union has the highest score. As merge rules: every way of cutting a token
//! in two tokens, ordered by the token's score.

use std::cmp::Reverse;
use std::collections::HashMap;

use tokenizers::models::bpe::Merges;

use super::gguf::SPACE;

/// A rule while it is sorted.
struct Rule<'a> {
    token: u32,
    left: &'a str,
    right: &'a str,
}

/// Merges in the order of the scores, best first.
///
/// Scores order rules; tokens of one score keep the order of their ids, as the reference has it.
///
/// # Source
/// - reference: transformers `tokenization_utils_base.py::generate_merges`
pub(super) fn merges_by_score(ids: &HashMap<String, u32>, scores: &[f32]) -> Merges {
    let score = |rule: &Rule<'_>| {
        let index = usize::try_from(rule.token).unwrap_or(usize::MAX);
        scores
            .get(index)
            .copied()
            .filter(|score| !score.is_nan())
            .unwrap_or(f32::NEG_INFINITY)
    };
    sorted(ids, |a, b| score(b).total_cmp(&score(a)))
}

/// Merges in the order of the ids, for vocabularies whose scores do not follow it.
pub(super) fn merges_by_position(ids: &HashMap<String, u32>) -> Merges {
    sorted(ids, |a, b| a.token.cmp(&b.token))
}

/// Spells tokens that are runs of spaces with SentencePiece's space.
pub(super) fn respell_spaces(ids: &mut HashMap<String, u32>) {
    let runs: Vec<String> = ids
        .keys()
        .filter(|token| token.len() > 1 && token.chars().all(|c| c == ' '))
        .cloned()
        .collect();
    for run in runs {
        let spelled = SPACE.repeat(run.len());
        if !ids.contains_key(&spelled)
            && let Some(id) = ids.remove(&run)
        {
            ids.insert(spelled, id);
        }
    }
}

fn sorted(
    ids: &HashMap<String, u32>,
    order: impl Fn(&Rule<'_>, &Rule<'_>) -> std::cmp::Ordering,
) -> Merges {
    let mut tokens: Vec<(&str, u32)> = ids
        .iter()
        .map(|(token, id)| (token.as_str(), *id))
        .collect();
    tokens.sort_by_key(|(_, id)| *id);
    let mut rules = Vec::new();
    for (text, token) in tokens {
        let first = rules.len();
        for (cut, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(cut);
            if ids.contains_key(left) && ids.contains_key(right) {
                rules.push(Rule { token, left, right });
            }
        }
        rules[first..].sort_by_key(|rule| (ids.get(rule.left), ids.get(rule.right)));
    }
    let length = |text: &str| text.chars().count();
    rules.sort_by(|a, b| {
        order(a, b).then_with(|| {
            Reverse((length(a.left), length(a.right)))
                .cmp(&Reverse((length(b.left), length(b.right))))
        })
    });
    rules
        .into_iter()
        .map(|rule| (rule.left.to_owned(), rule.right.to_owned()))
        .collect()
}
