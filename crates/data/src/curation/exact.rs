//! Exact duplicates: the same text but for case and white space.

use std::collections::HashMap;

use crate::content::{Part, hash};
use crate::example::Example;

/// Remembers a 128-bit hash of each example that it was shown.
///
/// # Units
/// About 40 bytes an example.
///
/// # Examples
/// ```
/// use flametune_data::{Example, ExactDuplicates};
///
/// let mut seen = ExactDuplicates::default();
/// assert_eq!(seen.insert(&Example::Text("One text".into())), None);
/// assert_eq!(seen.insert(&Example::Text("another".into())), None);
/// assert_eq!(seen.insert(&Example::Text("one  TEXT ".into())), Some(0));
/// ```
#[derive(Debug, Clone, Default)]
pub struct ExactDuplicates {
    first: HashMap<u128, usize>,
    shown: usize,
}

impl ExactDuplicates {
    /// Shows an example: the number, from zero, of the first one that says the same, if there was one.
    pub fn insert(&mut self, example: &Example) -> Option<usize> {
        let number = self.shown;
        self.shown += 1;
        match self.first.entry(hash(example, Part::All)) {
            std::collections::hash_map::Entry::Occupied(first) => Some(*first.get()),
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(number);
                None
            }
        }
    }
}
