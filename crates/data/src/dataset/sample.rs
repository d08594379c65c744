//! An example with its origin, and examples that are left out.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::example::Example;
use crate::readers::Location;

/// An example and where it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The example.
    pub example: Example,
    /// Where its record stands.
    pub at: Location,
    /// Which example of the dataset it is, whatever the order.
    pub id: SampleId,
}

/// Names an example of a dataset, whatever the order in which examples come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SampleId {
    /// Position of the source.
    pub source: usize,
    /// Position of the file among the sorted files of the source.
    pub file: usize,
    /// Number of the record in the file, from zero.
    pub record: u64,
    /// Number of the example in the record, from zero.
    pub part: usize,
}

/// Examples that a dataset leaves out, such as duplicates.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Exclusions {
    ids: BTreeSet<SampleId>,
}

impl Exclusions {
    /// Adds an example; false when it was there.
    pub fn insert(&mut self, id: SampleId) -> bool {
        self.ids.insert(id)
    }

    /// Whether an example is left out.
    pub fn contains(&self, id: &SampleId) -> bool {
        self.ids.contains(id)
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether nothing is left out.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The examples, in order.
    pub fn iter(&self) -> impl Iterator<Item = &SampleId> {
        self.ids.iter()
    }
}
