//! Train and validation parts by a hash of what a record says.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::content::{Part, hash};
use crate::error::{Error, Result};
use crate::example::Example;
use crate::random::unit;

/// How records are divided into training and validation.
///
/// A record goes to validation when the hash of its text, as a number in `[0, 1)`, is below `validation`.
/// So its side depends on its text and the seed alone: not on its place, the other records, or the number of runs; a
/// larger share moves records to validation and none back, and duplicates never lie on both sides. All examples of one
/// record, such as the conversations of a tree, stay together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// Share of the records that is kept for validation, between 0 and 1.
    pub validation: f64,
    /// Another seed gives another division.
    #[serde(default)]
    pub seed: u64,
    /// What is hashed.
    #[serde(default)]
    pub by: SplitBy,
}

/// What decides the side of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SplitBy {
    /// The whole text.
    #[default]
    Record,
    /// What comes before the first answer: records that ask the same stay together, as in preference datasets with
    /// several pairs for a prompt.
    Prompt,
}

/// One side of a [`Split`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// What is learned from.
    Train,
    /// What is held back.
    Validation,
}

impl Split {
    /// The side of the record that these examples were made from.
    ///
    /// # Examples
    /// ```
    /// use flametune_data::{Example, Split, SplitBy};
    ///
    /// let split = Split { validation: 0.1, seed: 0, by: SplitBy::Record };
    /// let side = |text: &str| split.side(&[Example::Text(text.into())]);
    /// assert_eq!(side("Same text"), side("same  text\n"));
    /// ```
    pub fn side(&self, examples: &[Example]) -> Side {
        let mut bytes = Vec::with_capacity(16);
        let part = match self.by {
            SplitBy::Record => Part::All,
            SplitBy::Prompt => Part::Prompt,
        };
        for example in examples {
            bytes.extend_from_slice(&hash(example, part).to_le_bytes());
            // Every conversation of a tree has the same prompt.
            if self.by == SplitBy::Prompt {
                break;
            }
        }
        if unit(xxh3_64_with_seed(&bytes, self.seed)) < self.validation {
            Side::Validation
        } else {
            Side::Train
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.validation > 0.0 && self.validation < 1.0 {
            return Ok(());
        }
        Err(Error::InvalidOption {
            option: "split.validation".into(),
            expected: "between 0 and 1, both excluded",
            got: self.validation.to_string(),
        })
    }
}
