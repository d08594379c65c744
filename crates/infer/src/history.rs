//! The tokens of one request: its prompt and what was generated so far.

use std::collections::{HashMap, HashSet};

/// Prompt and output of a request, with the counts that the penalties need.
///
/// # Examples
/// ```
/// use flametune_infer::History;
///
/// let mut history = History::new(&[7, 8, 7]);
/// history.push(8);
/// assert_eq!(history.tokens(), [7, 8, 7, 8]);
/// assert_eq!(history.output(), [8]);
/// assert_eq!(history.distinct(), [7, 8]);
/// assert_eq!(history.output_counts().collect::<Vec<_>>(), [(8, 1)]);
/// ```
#[derive(Debug, Clone)]
pub struct History {
    tokens: Vec<u32>,
    prompt_len: usize,
    seen: HashSet<u32>,
    distinct: Vec<u32>,
    output_counts: HashMap<u32, u32>,
}

impl History {
    /// Starts with a prompt and an empty output.
    #[must_use]
    pub fn new(prompt: &[u32]) -> Self {
        let mut history = Self {
            tokens: prompt.to_vec(),
            prompt_len: prompt.len(),
            seen: HashSet::new(),
            distinct: Vec::new(),
            output_counts: HashMap::new(),
        };
        for &token in prompt {
            history.note(token);
        }
        history
    }

    /// Appends a generated token.
    pub fn push(&mut self, token: u32) {
        self.tokens.push(token);
        self.note(token);
        *self.output_counts.entry(token).or_insert(0) += 1;
    }

    /// Prompt and output.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The generated tokens.
    #[must_use]
    pub fn output(&self) -> &[u32] {
        &self.tokens[self.prompt_len..]
    }

    /// Every token of prompt and output once, in the order of first appearance.
    #[must_use]
    pub fn distinct(&self) -> &[u32] {
        &self.distinct
    }

    /// Every generated token once with its number of occurrences, in no particular order.
    pub fn output_counts(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.output_counts
            .iter()
            .map(|(&token, &count)| (token, count))
    }

    fn note(&mut self, token: u32) {
        if self.seen.insert(token) {
            self.distinct.push(token);
        }
    }
}
