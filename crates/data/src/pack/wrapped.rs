//! Concatenate and chunk: rows that are full to the last token, for plain text.

use serde::{Deserialize, Serialize};

use super::Row;
use crate::encode::EncodedExample;
use crate::error::{Error, Result};

/// Where a wrapped stream stands between two rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WrapCursor {
    /// Number of items that the source gave before the one that the next row begins with.
    pub items: u64,
    /// Number of tokens of that item that earlier rows hold.
    pub tokens: usize,
}

/// Writes examples one after another and cuts the stream into rows of exactly `max_length` tokens; the last may be
/// shorter, and is left out when it has no target, as a single token at the end.
///
/// An example that is cut goes on in the next row as a segment of its own, with positions from 0; the first token of
/// that part has nothing before it and is not trained. Only for plain text: in a conversation, the part after a cut
/// would be learned without its question.
///
/// A cursor that points behind the last token of its example belongs to other examples: [`Error::CursorMismatch`].
///
/// # Source
/// - reference: trl `data_utils.py::pack_dataset` with strategy `wrapped`
/// - differs: there, segments are not kept apart
#[derive(Debug)]
pub struct Wrapped<I> {
    source: I,
    max_length: usize,
    /// The next token of the source.
    position: WrapCursor,
    current: Option<EncodedExample>,
    /// The row that is being filled.
    row: Row,
    /// Where the stream stood when that row was begun.
    cursor: WrapCursor,
    done: bool,
}

impl<I: Iterator<Item = Result<EncodedExample>>> Wrapped<I> {
    /// Wraps `source` from its start.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for rows of less than two tokens, in which nothing can be learned.
    pub fn new(source: I, max_length: usize) -> Result<Self> {
        Self::resume(source, max_length, WrapCursor::default())
    }

    /// Goes on where another stream over the same items stood; `source` begins at item `cursor.items`.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn resume(source: I, max_length: usize, cursor: WrapCursor) -> Result<Self> {
        if max_length < 2 {
            return Err(Error::InvalidOption {
                option: "max_length".into(),
                expected: "at least 2",
                got: max_length.to_string(),
            });
        }
        Ok(Self {
            source,
            max_length,
            position: cursor,
            current: None,
            row: Row::default(),
            cursor,
            done: false,
        })
    }

    /// Where the stream stands: what the next row begins with.
    pub fn cursor(&self) -> WrapCursor {
        self.cursor
    }

    fn finish_row(&mut self) -> Row {
        self.cursor = self.position;
        std::mem::take(&mut self.row)
    }
}

impl<I: Iterator<Item = Result<EncodedExample>>> Iterator for Wrapped<I> {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.done {
            if let Some(example) = &self.current {
                let start = self.position.tokens;
                if start > 0 && start >= example.len() {
                    let error = Error::CursorMismatch {
                        field: "the number of tokens after which the example was left",
                        saved: start.to_string(),
                        now: format!("beyond the {} that it has", example.len()),
                    };
                    (self.current, self.done) = (None, true);
                    return Some(Err(error));
                }
                let end = example.len().min(start + self.max_length - self.row.len());
                self.row
                    .push(&example.input_ids[start..end], &example.labels[start..end]);
                self.position.tokens = end;
                if end == example.len() {
                    self.current = None;
                    self.position = WrapCursor {
                        items: self.position.items.saturating_add(1),
                        tokens: 0,
                    };
                }
            }
            if self.row.len() == self.max_length {
                return Some(Ok(self.finish_row()));
            }
            match self.source.next() {
                Some(Ok(example)) => self.current = Some(example),
                Some(Err(error)) => {
                    self.position.items = self.position.items.saturating_add(1);
                    return Some(Err(error));
                }
                None => self.done = true,
            }
        }
        let row = self.finish_row();
        (row.num_supervised_tokens() > 0).then_some(Ok(row))
    }
}
