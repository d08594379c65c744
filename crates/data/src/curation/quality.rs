//! Filters by what a text looks like, whatever its language.

use std::collections::HashMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::content::{Part, joined, words};
use crate::error::{Error, Result};
use crate::example::Example;

/// What a text must be like. Every limit is about the part that is learned, except `max_chars`, which counts all.
///
/// The default drops what is broken and keeps what is short: empty answers, one phrase over and over, bytes that are no
/// text.
///
/// # Source
/// - Rae et al. 2021, Scaling Language Models (Gopher), arXiv:2112.11446, appendix A.1.1: duplicate lines, and the share
///   of the text in the most frequent and in repeated n-grams
/// - differs: the limits are for answers, not for web pages; repetition counts from `min_words_for_repetition` on
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QualityOptions {
    /// Fewest characters of the learned part.
    pub min_chars: usize,
    /// Most characters of the whole example.
    pub max_chars: usize,
    /// Fewest words of the learned part.
    pub min_words: usize,
    /// Repetition is judged in texts of at least this many words.
    pub min_words_for_repetition: usize,
    /// Largest share of the words that lies in a run which occurred before: of four words, or of ten characters in
    /// scripts without spaces.
    pub max_repeated_share: f64,
    /// Largest share of the lines that occurred before; blank lines do not count.
    pub max_duplicate_lines: f64,
    /// Smallest share of letters and digits among the characters that are not white space.
    pub min_alphanumeric: f64,
    /// Largest share of control and replacement characters (`U+FFFD`).
    pub max_broken: f64,
}

impl Default for QualityOptions {
    fn default() -> Self {
        Self {
            min_chars: 1,
            max_chars: 1 << 20,
            min_words: 0,
            min_words_for_repetition: 50,
            max_repeated_share: 0.5,
            max_duplicate_lines: 0.5,
            min_alphanumeric: 0.0,
            max_broken: 0.01,
        }
    }
}

/// Why an example does not pass.
#[derive(Debug, Clone, PartialEq)]
pub struct QualityIssue {
    /// The option whose limit was passed.
    pub option: &'static str,
    /// The value of the example.
    pub value: f64,
    /// The limit.
    pub limit: f64,
}

impl fmt::Display for QualityIssue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.option.starts_with("min") {
            "below"
        } else {
            "above"
        };
        write!(
            f,
            "{:.3} is {side} {} = {}",
            self.value, self.option, self.limit
        )
    }
}

impl QualityOptions {
    /// Checks that shares lie between 0 and 1.
    ///
    /// # Errors
    /// [`Error::InvalidOption`].
    pub fn validate(&self) -> Result<()> {
        for (option, share) in [
            ("max_repeated_share", self.max_repeated_share),
            ("max_duplicate_lines", self.max_duplicate_lines),
            ("min_alphanumeric", self.min_alphanumeric),
            ("max_broken", self.max_broken),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return Err(Error::InvalidOption {
                    option: option.into(),
                    expected: "between 0 and 1",
                    got: share.to_string(),
                });
            }
        }
        Ok(())
    }

    /// The first limit that an example does not keep.
    ///
    /// # Examples
    /// ```
    /// use flametune_data::{Example, QualityOptions};
    ///
    /// let options = QualityOptions::default();
    /// assert_eq!(options.issue(&Example::Text("Short, but fine.".into())), None);
    /// let stuck = "I am a model. ".repeat(40);
    /// assert_eq!(options.issue(&Example::Text(stuck)).unwrap().option, "max_repeated_share");
    /// ```
    pub fn issue(&self, example: &Example) -> Option<QualityIssue> {
        let all = joined(example, Part::All).chars().count();
        let text = match example {
            // The label of a class is no text.
            Example::Classified { text, .. } => text.clone(),
            _ => joined(example, Part::Answer),
        };
        let chars = text.trim().chars().count();
        let words = words(&text);
        let least = |option, value: f64, limit: f64| {
            (value < limit).then_some(QualityIssue {
                option,
                value,
                limit,
            })
        };
        let most = |option, value: f64, limit: f64| {
            (value > limit).then_some(QualityIssue {
                option,
                value,
                limit,
            })
        };
        least("min_chars", chars as f64, self.min_chars as f64)
            .or_else(|| most("max_chars", all as f64, self.max_chars as f64))
            .or_else(|| least("min_words", words.len() as f64, self.min_words as f64))
            .or_else(|| {
                let judged = words.len() >= self.min_words_for_repetition;
                let share = if judged { repeated_share(&words) } else { 0.0 };
                most("max_repeated_share", share, self.max_repeated_share)
            })
            .or_else(|| {
                let judged = words.len() >= self.min_words_for_repetition;
                let share = if judged { duplicate_lines(&text) } else { 0.0 };
                most("max_duplicate_lines", share, self.max_duplicate_lines)
            })
            .or_else(|| {
                least(
                    "min_alphanumeric",
                    alphanumeric(&text),
                    self.min_alphanumeric,
                )
            })
            .or_else(|| most("max_broken", broken(&text), self.max_broken))
    }
}

/// Share of the words in a run that occurred before: of four words, or of ten where most words are one character, as in
/// scripts without spaces.
fn repeated_share(words: &[String]) -> f64 {
    let single = words.iter().filter(|word| word.chars().nth(1).is_none());
    let run_words = if single.count() * 2 > words.len() {
        10
    } else {
        4
    };
    let mut first: HashMap<&[String], usize> = HashMap::new();
    let mut repeated = vec![false; words.len()];
    for (start, run) in words.windows(run_words).enumerate() {
        if *first.entry(run).or_insert(start) != start {
            repeated[start..start + run_words].fill(true);
        }
    }
    share(repeated.iter().filter(|word| **word).count(), words.len())
}

fn duplicate_lines(text: &str) -> f64 {
    let mut seen = std::collections::HashSet::new();
    let (mut lines, mut duplicates) = (0, 0);
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        lines += 1;
        duplicates += usize::from(!seen.insert(line));
    }
    share(duplicates, lines)
}

fn alphanumeric(text: &str) -> f64 {
    let (mut all, mut letters) = (0, 0);
    for c in text.chars().filter(|c| !c.is_whitespace()) {
        all += 1;
        letters += usize::from(c.is_alphanumeric());
    }
    // A text without characters has no share to judge; `min_chars` is about it.
    if all == 0 { 1.0 } else { share(letters, all) }
}

fn broken(text: &str) -> f64 {
    let is_broken =
        |c: &char| *c == char::REPLACEMENT_CHARACTER || (c.is_control() && !c.is_whitespace());
    let (mut all, mut broken) = (0, 0);
    for c in text.chars() {
        all += 1;
        broken += usize::from(is_broken(&c));
    }
    share(broken, all)
}

fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}
