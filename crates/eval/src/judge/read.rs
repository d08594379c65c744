//! Finding the verdict in what a judge wrote.

use std::sync::LazyLock;

use regex::Regex;

use crate::stats::Outcome;

fn pattern(source: &str) -> Option<Regex> {
    Regex::new(source).ok()
}

/// The score of an answer such as `Rating: [[7]]`, within the bounds; `None` when there is none.
///
/// The last number in double brackets counts; without brackets the last one after `rating` or `score`; and a lone
/// number if the answer holds no other.
///
/// # Examples
/// ```
/// use flametune_eval::judge::read_score;
///
/// assert_eq!(read_score("It is good. Rating: [[8.5]]", 1.0, 10.0), Some(8.5));
/// assert_eq!(read_score("score = 4/5", 1.0, 5.0), Some(4.0));
/// assert_eq!(read_score("7", 1.0, 10.0), Some(7.0));
/// assert_eq!(read_score("I would say 3 or 4", 1.0, 5.0), None);
/// assert_eq!(read_score("[[11]]", 1.0, 10.0), None);
/// ```
#[must_use]
pub fn read_score(answer: &str, low: f64, high: f64) -> Option<f64> {
    static BRACKETS: LazyLock<Option<Regex>> =
        LazyLock::new(|| pattern(r"\[\[\s*(-?[0-9]+(?:\.[0-9]+)?)\s*(?:/\s*[0-9]+)?\s*\]\]"));
    static NAMED: LazyLock<Option<Regex>> = LazyLock::new(|| {
        pattern(r#"(?i)(?:rating|score)\W{0,4}(?:is|of|=|:)?\W{0,4}(-?[0-9]+(?:\.[0-9]+)?)"#)
    });
    static NUMBER: LazyLock<Option<Regex>> = LazyLock::new(|| pattern(r"-?[0-9]+(?:\.[0-9]+)?"));
    let last = |regex: &LazyLock<Option<Regex>>| {
        let found = regex.as_ref()?.captures_iter(answer).last()?;
        found.get(1)?.as_str().parse::<f64>().ok()
    };
    let score = last(&BRACKETS).or_else(|| last(&NAMED)).or_else(|| {
        let mut numbers = NUMBER.as_ref()?.find_iter(answer);
        let only = numbers.next()?.as_str().parse::<f64>().ok()?;
        numbers.next().is_none().then_some(only)
    })?;
    (low..=high).contains(&score).then_some(score)
}

/// Who won by an answer such as `[[A]]`, `[[B]]` or `[[tie]]`; `None` when it does not say.
///
/// # Examples
/// ```
/// use flametune_eval::judge::read_choice;
/// use flametune_eval::stats::Outcome;
///
/// assert_eq!(read_choice("A is longer. Verdict: [[B]]"), Some(Outcome::Second));
/// assert_eq!(read_choice("[[C]]"), Some(Outcome::Tie));
/// assert_eq!(read_choice("a"), Some(Outcome::First));
/// assert_eq!(read_choice("Both have merits."), None);
/// ```
#[must_use]
pub fn read_choice(answer: &str) -> Option<Outcome> {
    static BRACKETS: LazyLock<Option<Regex>> =
        LazyLock::new(|| pattern(r"(?i)\[\[\s*(A|B|C|tie|draw)\s*\]\]"));
    static NAMED: LazyLock<Option<Regex>> = LazyLock::new(|| {
        pattern(
            r#"(?i)(?:verdict|winner|better|choice|answer)\W{0,4}(?:is|:)\W{0,4}(?:assistant |answer )?(A|B|C|tie|draw)\b"#,
        )
    });
    static ALONE: LazyLock<Option<Regex>> =
        LazyLock::new(|| pattern(r"(?i)^\W*(A|B|C|tie|draw)\W*$"));
    let word = [&BRACKETS, &NAMED, &ALONE].into_iter().find_map(|regex| {
        let found = regex.as_ref()?.captures_iter(answer).last()?;
        Some(found.get(1)?.as_str().to_lowercase())
    })?;
    match word.as_str() {
        "a" => Some(Outcome::First),
        "b" => Some(Outcome::Second),
        _ => Some(Outcome::Tie),
    }
}
