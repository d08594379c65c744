//! One row of a batch.

use crate::encode::{EncodedExample, IGNORE_INDEX};

/// One row of a batch: one or more examples end to end, without padding.
///
/// Each example is a segment, numbered from 1; a batch has segment 0 for padding. Positions begin at 0 in each
/// segment.
///
/// Labels are aligned with the ids and the loss shifts them by one, so the label of a segment's first token would be
/// predicted from the last token of the segment before. That label is always [`IGNORE_INDEX`]: no target crosses a
/// segment, and the labels that are left count the targets exactly.
///
/// # Examples
/// ```
/// use flametune_data::{EncodedExample, Row};
///
/// let example = |ids: &[u32]| EncodedExample {
///     input_ids: ids.to_vec(),
///     labels: ids.iter().map(|&id| i64::from(id)).collect(),
/// };
/// let row = Row::from_examples([&example(&[5, 6, 7]), &example(&[8, 9])]);
/// assert_eq!(row.input_ids, [5, 6, 7, 8, 9]);
/// assert_eq!(row.labels, [-100, 6, 7, -100, 9]);
/// assert_eq!(row.position_ids, [0, 1, 2, 0, 1]);
/// assert_eq!(row.segment_ids, [1, 1, 1, 2, 2]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Row {
    /// The ids.
    pub input_ids: Vec<u32>,
    /// The label of each id.
    pub labels: Vec<i64>,
    /// The position of each id in its segment.
    pub position_ids: Vec<u32>,
    /// The segment of each id, from 1.
    pub segment_ids: Vec<u32>,
}

impl Row {
    /// The examples end to end.
    pub fn from_examples<'a>(examples: impl IntoIterator<Item = &'a EncodedExample>) -> Self {
        let mut row = Self::default();
        for example in examples {
            row.push(&example.input_ids, &example.labels);
        }
        row
    }

    /// Appends a segment; one without ids leaves the row as it is.
    pub(crate) fn push(&mut self, input_ids: &[u32], labels: &[i64]) {
        if input_ids.is_empty() {
            return;
        }
        let segment = self.segments() + 1;
        self.input_ids.extend_from_slice(input_ids);
        self.labels.push(IGNORE_INDEX);
        self.labels
            .extend_from_slice(labels.get(1..).unwrap_or_default());
        self.position_ids.extend((0..).take(input_ids.len()));
        let end = self.input_ids.len();
        self.segment_ids.resize(end, segment);
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.input_ids.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.input_ids.is_empty()
    }

    /// Number of segments.
    pub fn segments(&self) -> u32 {
        self.segment_ids.last().copied().unwrap_or(0)
    }

    /// Number of tokens that are the target of a prediction.
    pub fn num_supervised_tokens(&self) -> usize {
        let labels = self.labels.iter();
        labels.filter(|&&label| label != IGNORE_INDEX).count()
    }
}

impl From<&EncodedExample> for Row {
    fn from(example: &EncodedExample) -> Self {
        Self::from_examples([example])
    }
}
