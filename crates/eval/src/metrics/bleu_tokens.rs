//! How BLEU cuts text into words.

use std::sync::LazyLock;

use regex::Regex;

use crate::python;

/// A tokenizer of sacreBLEU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum BleuTokenizer {
    /// `13a`: punctuation apart, as `mteval-v13a.pl` has it; the default everywhere.
    #[default]
    V13a,
    /// `intl`: Unicode punctuation and symbols apart.
    International,
    /// `char`: every character is a word.
    Char,
    /// `none`: words between white space.
    None,
}

impl BleuTokenizer {
    /// The words of a line.
    pub(super) fn words(self, line: &str) -> Vec<String> {
        let line = line.trim_end_matches(python::is_space);
        let separated = match self {
            Self::V13a => v13a(line),
            Self::International => apply(line.to_owned(), &INTERNATIONAL),
            Self::Char => line
                .chars()
                .flat_map(|character| [character, ' '])
                .collect(),
            Self::None => line.to_owned(),
        };
        python::split(&separated).map(str::to_owned).collect()
    }
}

type Rules = LazyLock<Vec<(Regex, &'static str)>>;

/// Patterns are written here, so one that did not compile would only be left out; a test counts them.
fn rules(rules: &[(&str, &'static str)]) -> Vec<(Regex, &'static str)> {
    rules
        .iter()
        .filter_map(|(pattern, replacement)| Some((Regex::new(pattern).ok()?, *replacement)))
        .collect()
}

static V13A: Rules = LazyLock::new(|| {
    rules(&[
        (
            r"([\x7b-\x7e\x5b-\x60\x20-\x26\x28-\x2b\x3a-\x40\x2f])",
            " ${1} ",
        ),
        // A period or comma, unless a digit stands before it.
        (r"([^0-9])([.,])", "${1} ${2} "),
        // … unless one stands after it.
        (r"([.,])([^0-9])", " ${1} ${2}"),
        // A dash after a digit.
        (r"([0-9])(-)", "${1} ${2} "),
    ])
});

static INTERNATIONAL: Rules = LazyLock::new(|| {
    rules(&[
        (r"(\P{N})(\p{P})", "${1} ${2} "),
        (r"(\p{P})(\P{N})", " ${1} ${2}"),
        (r"(\p{S})", " ${1} "),
    ])
});

fn v13a(line: &str) -> String {
    let mut line = line
        .replace("<skipped>", "")
        .replace("-\n", "")
        .replace('\n', " ");
    if line.contains('&') {
        for (entity, character) in [
            ("&quot;", "\""),
            ("&amp;", "&"),
            ("&lt;", "<"),
            ("&gt;", ">"),
        ] {
            line = line.replace(entity, character);
        }
    }
    apply(format!(" {line} "), &V13A)
}

fn apply(mut line: String, rules: &[(Regex, &'static str)]) -> String {
    for (pattern, replacement) in rules {
        line = pattern.replace_all(&line, *replacement).into_owned();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_compiles() {
        assert_eq!(V13A.len(), 4);
        assert_eq!(INTERNATIONAL.len(), 3);
    }
}
