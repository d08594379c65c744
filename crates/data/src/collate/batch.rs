//! What a model is given.

/// A batch of token sequences, padded on the right.
///
/// # Shapes
/// `input_ids`, `labels`, `position_ids` and `segment_ids` are `[batch, seq]`, row by row.
///
/// Labels are aligned with the ids; the loss at position `t` has the target `labels[t + 1]` of the same row. Labels of
/// padding and of each segment's first token are [`crate::IGNORE_INDEX`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The ids; padding has the pad id.
    pub input_ids: Vec<u32>,
    /// The label of each id.
    pub labels: Vec<i64>,
    /// The position of each id in its segment; padding has 0.
    pub position_ids: Vec<u32>,
    /// The segment of each id, from 1, and 0 for padding; `None` when every row is one segment.
    pub segment_ids: Option<Vec<u32>>,
    /// Number of tokens of each row without padding.
    pub lengths: Vec<usize>,
    /// Number of rows.
    pub batch: usize,
    /// Tokens of a row with padding.
    pub seq: usize,
    /// Number of labels that are not ignored: the targets of the loss.
    pub num_supervised_tokens: usize,
}

impl Batch {
    /// The share of the batch that is padding, in `[0, 1]`.
    #[expect(clippy::cast_precision_loss, reason = "a share for people to read")]
    pub fn padding(&self) -> f64 {
        let tokens: usize = self.lengths.iter().sum();
        match self.input_ids.len() {
            0 => 0.0,
            capacity => 1.0 - tokens as f64 / capacity as f64,
        }
    }
}

/// A batch of texts with their classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassifiedBatch {
    /// The texts; no token has a label.
    pub tokens: Batch,
    /// The class of each row.
    pub classes: Vec<usize>,
}

/// The batches whose gradients one optimizer step accumulates.
///
/// A loss that sums over the targets of each batch and divides by the step's `num_supervised_tokens` is the same
/// however the rows are spread over the batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The batches.
    pub batches: Vec<Batch>,
    /// Number of targets in all of them.
    pub num_supervised_tokens: usize,
}
