//! Overlap with evaluation sets.

use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::content::{Part, joined, words};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::example::Example;

/// How overlap with evaluation sets is found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ContaminationOptions {
    /// Words that must follow each other in both texts.
    pub ngram: usize,
    /// Evaluation items with fewer words than this are not looked for; those between this and `ngram` are looked for
    /// as a whole.
    pub shortest: usize,
}

impl Default for ContaminationOptions {
    fn default() -> Self {
        Self {
            ngram: 13,
            shortest: 8,
        }
    }
}

/// The n-grams of evaluation sets, to find training examples that hold one of them.
///
/// Words are compared in lower case and without punctuation. In scripts without spaces each character counts as a word;
/// a larger `ngram` suits them.
///
/// # Units
/// About 16 bytes a word of the evaluation sets.
///
/// # Source
/// - Brown et al. 2020, Language Models are Few-Shot Learners, arXiv:2005.14165, appendix C: 13-grams, and the whole
///   item where it is shorter (N between 8 and 13)
/// - differs: an example with an overlap is reported as a whole, where the paper cuts 200 characters around it out of
///   web pages; n-grams that many training texts share are not forgiven
///
/// # Examples
/// ```
/// use flametune_data::{Contamination, Example};
///
/// let mut evaluation = Contamination::default();
/// evaluation.add("Natalia sold clips to 48 of her friends in April, and then half as many clips in May.");
/// let text = "He said: natalia sold clips to 48 of her friends in april and then HALF as many.";
/// let overlap = evaluation.find(&Example::Text(text.into())).unwrap();
/// assert_eq!(overlap.item, 0);
/// assert_eq!(overlap.ngram, "natalia sold clips to 48 of her friends in april and then half");
/// ```
#[derive(Debug, Clone, Default)]
pub struct Contamination {
    options: ContaminationOptions,
    ngrams: HashMap<u64, u32>,
    /// Lengths of the n-grams.
    lengths: BTreeSet<usize>,
    items: u32,
    too_short: usize,
}

/// What a training example has in common with an evaluation item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    /// Number of the evaluation item, from zero, in the order in which they were added.
    pub item: usize,
    /// The words that both have.
    pub ngram: String,
}

impl Contamination {
    /// # Errors
    /// [`Error::InvalidOption`] unless `1 ≤ shortest ≤ ngram`.
    pub fn new(options: ContaminationOptions) -> Result<Self> {
        if options.shortest == 0 || options.shortest > options.ngram {
            return Err(Error::InvalidOption {
                option: "shortest".into(),
                expected: "at least 1 and at most `ngram`",
                got: options.shortest.to_string(),
            });
        }
        Ok(Self {
            options,
            ..Self::default()
        })
    }

    /// Adds an evaluation item, such as a question with its answer.
    pub fn add(&mut self, item: &str) {
        let number = self.items;
        self.items = self.items.saturating_add(1);
        let words = words(item);
        if words.len() < self.options.shortest {
            self.too_short += 1;
            return;
        }
        let length = self.options.ngram.min(words.len());
        self.lengths.insert(length);
        for ngram in words.windows(length) {
            self.ngrams.entry(hash(ngram)).or_insert(number);
        }
    }

    /// Adds the items of an evaluation set, the whole text of each.
    ///
    /// # Errors
    /// Those of reading.
    pub fn add_all(&mut self, items: Dataset) -> Result<()> {
        for item in items {
            self.add(&joined(&item?, Part::All));
        }
        Ok(())
    }

    /// Number of items that were too short to be looked for.
    pub fn too_short(&self) -> usize {
        self.too_short
    }

    /// The first overlap of an example with an item.
    pub fn find(&self, example: &Example) -> Option<Overlap> {
        let words = words(&joined(example, Part::All));
        for &length in self.lengths.iter().rev() {
            for ngram in words.windows(length) {
                if let Some(item) = self.ngrams.get(&hash(ngram)) {
                    return Some(Overlap {
                        item: *item as usize,
                        ngram: ngram.join(" "),
                    });
                }
            }
        }
        None
    }
}

fn hash(ngram: &[String]) -> u64 {
    let mut state = Xxh3::new();
    for word in ngram {
        state.update(word.as_bytes());
        state.update(b" ");
    }
    state.digest()
}
