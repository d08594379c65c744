//! Exact match with the clean-up that the reference harness offers.

use regex::Regex;

use crate::python::python_regex;

/// What [`ExactMatch`] takes away before it compares.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(default)]
pub struct ExactMatchOptions {
    /// Patterns that are deleted, one after the other.
    pub regexes_to_ignore: Vec<String>,
    /// Compares in lower case.
    pub ignore_case: bool,
    /// Deletes ASCII punctuation.
    pub ignore_punctuation: bool,
    /// Deletes ASCII digits.
    pub ignore_numbers: bool,
}

/// Compares two texts after cleaning both.
///
/// # Source
/// `exact_match_hf_evaluate` of lm-eval 0.4.13, after `evaluate`'s `exact_match`
///
/// # Examples
/// ```
/// use flametune_eval::metrics::{ExactMatch, ExactMatchOptions};
///
/// let options = ExactMatchOptions { regexes_to_ignore: vec![",".into()], ignore_case: true, ..Default::default() };
/// let matcher = ExactMatch::new(&options)?;
/// assert!(matcher.matches("1,000 Apples", "1000 apples"));
/// # Ok::<(), regex::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ExactMatch {
    ignored: Vec<Regex>,
    options: ExactMatchOptions,
}

impl ExactMatch {
    /// Compiles the patterns.
    ///
    /// # Errors
    /// A pattern that the engine does not accept.
    pub fn new(options: &ExactMatchOptions) -> Result<Self, regex::Error> {
        Ok(Self {
            ignored: options
                .regexes_to_ignore
                .iter()
                .map(|pattern| python_regex(pattern))
                .collect::<Result<_, _>>()?,
            options: options.clone(),
        })
    }

    /// Whether both are the same once cleaned.
    #[must_use]
    pub fn matches(&self, prediction: &str, reference: &str) -> bool {
        self.clean(prediction) == self.clean(reference)
    }

    fn clean(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for pattern in &self.ignored {
            text = pattern.replace_all(&text, "").into_owned();
        }
        if self.options.ignore_case {
            text = text.to_lowercase();
        }
        if self.options.ignore_punctuation {
            text.retain(|c| !c.is_ascii_punctuation());
        }
        if self.options.ignore_numbers {
            text.retain(|c| !c.is_ascii_digit());
        }
        text
    }
}
