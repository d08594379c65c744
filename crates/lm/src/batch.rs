//! A rectangle of token ids, checked before it reaches a model.

use crate::error::{Error, Result};

/// The segment of a padding slot.
pub const PADDING: u32 = 0;

/// Token ids of several rows of one length, with what the model must know of each slot.
///
/// # Shapes
/// Every list is `[batch, seq]`, row by row.
///
/// # Units
/// - `segment_ids`: tokens attend only within their own segment; [`PADDING`] (0) marks padding
/// - `position_ids`: counted from 0 within a segment unless given
///
/// # Examples
/// ```
/// use flametune_lm::TokenBatch;
///
/// let batch = TokenBatch::left_padded(&[vec![5, 6, 7], vec![8]], 0)?;
/// assert_eq!(batch.input_ids(), [5, 6, 7, 0, 0, 8]);
/// assert_eq!(batch.segment_ids(), Some(&[1, 1, 1, 0, 0, 1][..]));
/// # Ok::<(), flametune_lm::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenBatch {
    batch: usize,
    seq: usize,
    input_ids: Vec<u32>,
    position_ids: Option<Vec<u32>>,
    segment_ids: Option<Vec<u32>>,
    token_type_ids: Option<Vec<u32>>,
}

impl TokenBatch {
    /// Rows of equal length, without padding.
    ///
    /// # Errors
    /// [`Error::EmptyInput`] without tokens, [`Error::RaggedBatch`] when lengths differ.
    pub fn from_rows(rows: &[Vec<u32>]) -> Result<Self> {
        let seq = rows.first().map_or(0, Vec::len);
        if let Some((row, got)) = rows
            .iter()
            .map(Vec::len)
            .enumerate()
            .find(|&(_, length)| length != seq)
        {
            return Err(Error::RaggedBatch {
                row,
                expected: seq,
                got,
            });
        }
        if seq == 0 {
            return Err(Error::EmptyInput);
        }
        Ok(Self {
            batch: rows.len(),
            seq,
            input_ids: rows.concat(),
            position_ids: None,
            segment_ids: None,
            token_type_ids: None,
        })
    }

    /// Rows of different lengths, padded at their left ends, as generation needs them.
    ///
    /// # Errors
    /// [`Error::EmptyInput`] when there is no row, or a row without tokens.
    pub fn left_padded(rows: &[Vec<u32>], pad_id: u32) -> Result<Self> {
        Self::padded(rows, pad_id, true)
    }

    /// Rows of different lengths, padded at their right ends.
    ///
    /// # Errors
    /// [`Error::EmptyInput`] when there is no row, or a row without tokens.
    pub fn right_padded(rows: &[Vec<u32>], pad_id: u32) -> Result<Self> {
        Self::padded(rows, pad_id, false)
    }

    fn padded(rows: &[Vec<u32>], pad_id: u32, left: bool) -> Result<Self> {
        if rows.is_empty() || rows.iter().any(Vec::is_empty) {
            return Err(Error::EmptyInput);
        }
        let seq = rows.iter().map(Vec::len).max().unwrap_or(0);
        let mut input_ids = Vec::with_capacity(rows.len() * seq);
        let mut segment_ids = Vec::with_capacity(rows.len() * seq);
        for row in rows {
            let pads = seq - row.len();
            if left {
                input_ids.extend(std::iter::repeat_n(pad_id, pads));
                segment_ids.extend(std::iter::repeat_n(PADDING, pads));
            }
            input_ids.extend_from_slice(row);
            segment_ids.extend(std::iter::repeat_n(1, row.len()));
            if !left {
                input_ids.extend(std::iter::repeat_n(pad_id, pads));
                segment_ids.extend(std::iter::repeat_n(PADDING, pads));
            }
        }
        let padded = segment_ids.contains(&PADDING);
        Ok(Self {
            batch: rows.len(),
            seq,
            input_ids,
            position_ids: None,
            segment_ids: padded.then_some(segment_ids),
            token_type_ids: None,
        })
    }

    /// Says which segment each slot belongs to: packed documents, or padding.
    ///
    /// # Errors
    /// [`Error::BatchLength`] when the number of ids is not `batch · seq`.
    pub fn with_segment_ids(mut self, segment_ids: Vec<u32>) -> Result<Self> {
        self.check_len("segment_ids", &segment_ids)?;
        self.segment_ids = Some(segment_ids);
        Ok(self)
    }

    /// Says the position of each token instead of counting within its segment.
    ///
    /// # Errors
    /// [`Error::BatchLength`] when the number of ids is not `batch · seq`.
    pub fn with_position_ids(mut self, position_ids: Vec<u32>) -> Result<Self> {
        self.check_len("position_ids", &position_ids)?;
        self.position_ids = Some(position_ids);
        Ok(self)
    }

    /// Says which sentence of a pair each token belongs to (BERT).
    ///
    /// # Errors
    /// [`Error::BatchLength`] when the number of ids is not `batch · seq`.
    pub fn with_token_type_ids(mut self, token_type_ids: Vec<u32>) -> Result<Self> {
        self.check_len("token_type_ids", &token_type_ids)?;
        self.token_type_ids = Some(token_type_ids);
        Ok(self)
    }

    fn check_len(&self, what: &'static str, ids: &[u32]) -> Result<()> {
        let expected = self.batch * self.seq;
        if ids.len() != expected {
            return Err(Error::BatchLength {
                what,
                expected,
                got: ids.len(),
            });
        }
        Ok(())
    }

    /// The number of rows.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// The length of every row, padding included.
    pub fn seq(&self) -> usize {
        self.seq
    }

    /// The token ids.
    pub fn input_ids(&self) -> &[u32] {
        &self.input_ids
    }

    /// The segments, unless every slot is a token of the same one.
    pub fn segment_ids(&self) -> Option<&[u32]> {
        self.segment_ids.as_deref()
    }

    /// The positions, if they were given.
    pub fn position_ids(&self) -> Option<&[u32]> {
        self.position_ids.as_deref()
    }

    /// The sentences of BERT's pairs, if they were given.
    pub fn token_type_ids(&self) -> Option<&[u32]> {
        self.token_type_ids.as_deref()
    }

    /// Checks every id against a vocabulary.
    pub(crate) fn check_vocab(&self, vocab_size: usize) -> Result<()> {
        let out_of_range = |&id: &u32| usize::try_from(id).map_or(true, |id| id >= vocab_size);
        match self.input_ids.iter().position(out_of_range) {
            None => Ok(()),
            Some(index) => Err(Error::TokenOutOfRange {
                id: i64::from(self.input_ids[index]),
                vocab_size,
                position: index % self.seq,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ragged_rows_and_wrong_lengths_are_refused() {
        let error = TokenBatch::from_rows(&[vec![1, 2], vec![3]]).unwrap_err();
        assert!(matches!(
            error,
            Error::RaggedBatch {
                row: 1,
                expected: 2,
                got: 1
            }
        ));
        assert!(matches!(TokenBatch::from_rows(&[]), Err(Error::EmptyInput)));
        assert!(matches!(
            TokenBatch::left_padded(&[vec![]], 0),
            Err(Error::EmptyInput)
        ));
        let batch = TokenBatch::from_rows(&[vec![1, 2]]).unwrap();
        let error = batch.with_segment_ids(vec![1]).unwrap_err();
        assert!(matches!(
            error,
            Error::BatchLength {
                what: "segment_ids",
                expected: 2,
                got: 1
            }
        ));
    }

    #[test]
    fn an_id_outside_the_vocabulary_is_found_with_its_position() {
        let batch = TokenBatch::from_rows(&[vec![1, 2], vec![3, 9]]).unwrap();
        assert!(batch.check_vocab(10).is_ok());
        let error = batch.check_vocab(9).unwrap_err();
        assert!(matches!(
            error,
            Error::TokenOutOfRange {
                id: 9,
                vocab_size: 9,
                position: 1
            }
        ));
    }
}
