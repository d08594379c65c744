//! Packing a stream, a bounded number of examples at a time.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{Row, pack};
use crate::encode::EncodedExample;
use crate::error::{Error, Result};

/// Where a packed stream stands between two rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PackCursor {
    /// Number of items that the source gave before the current window.
    pub items: u64,
    /// Number of rows of the current window that were handed out.
    pub rows: usize,
}

/// Packs a stream of examples: each window of them on its own, with [`super::best_fit_decreasing`].
///
/// No more than `window` examples are held. A window's rows depend on its examples alone, so a stream goes on exactly
/// where it was left: bring the source to item [`PackCursor::items`] and call [`Self::resume`].
///
/// An error of the source is passed on at once, ahead of the rows of its window. A cursor that points behind the last
/// row of its window belongs to other examples: [`Error::CursorMismatch`].
#[derive(Debug)]
pub struct PackedWindows<I> {
    source: I,
    max_length: usize,
    window: usize,
    cursor: PackCursor,
    /// Number of items that the source gave for the current window.
    taken: u64,
    examples: Vec<EncodedExample>,
    rows: VecDeque<Row>,
    /// Rows of the next window that were handed out before the stream was left.
    skip: usize,
}

impl<I: Iterator<Item = Result<EncodedExample>>> PackedWindows<I> {
    /// Packs `source` from its start, `window` examples at a time.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a window of no examples or rows of no tokens.
    pub fn new(source: I, max_length: usize, window: usize) -> Result<Self> {
        Self::resume(source, max_length, window, PackCursor::default())
    }

    /// Goes on where another stream over the same items stood; `source` begins at item `cursor.items`.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn resume(source: I, max_length: usize, window: usize, cursor: PackCursor) -> Result<Self> {
        for (field, value) in [("max_length", max_length), ("window", window)] {
            if value == 0 {
                return Err(Error::InvalidOption {
                    option: field.into(),
                    expected: "at least 1",
                    got: value.to_string(),
                });
            }
        }
        Ok(Self {
            source,
            max_length,
            window,
            cursor: PackCursor { rows: 0, ..cursor },
            taken: 0,
            examples: Vec::new(),
            rows: VecDeque::new(),
            skip: cursor.rows,
        })
    }

    /// Where the stream stands.
    pub fn cursor(&self) -> PackCursor {
        PackCursor {
            rows: self.cursor.rows + self.skip,
            ..self.cursor
        }
    }

    /// Takes the next window from the source. `Ok(false)` when there is none.
    fn fill(&mut self) -> Result<bool> {
        while self.examples.len() < self.window {
            let Some(item) = self.source.next() else {
                break;
            };
            self.taken += 1;
            let example = item?;
            if example.len() > self.max_length {
                return Err(Error::ExampleTooLong {
                    index: usize::try_from(self.cursor.items.saturating_add(self.taken - 1))
                        .unwrap_or(usize::MAX),
                    tokens: example.len(),
                    field: "max_length",
                    limit: self.max_length,
                });
            }
            self.examples.push(example);
        }
        self.rows = pack(&self.examples, self.max_length)?.into();
        self.examples.clear();
        let skip = std::mem::take(&mut self.skip);
        if skip > 0 && skip >= self.rows.len() {
            let now = self.rows.len().to_string();
            self.rows.clear();
            return Err(Error::CursorMismatch {
                field: "the number of rows after which the window was left",
                saved: skip.to_string(),
                now: format!("beyond the {now} that it has"),
            });
        }
        if self.rows.is_empty() {
            return Ok(false);
        }
        self.rows.drain(..skip);
        self.cursor.rows = skip;
        Ok(true)
    }
}

impl<I: Iterator<Item = Result<EncodedExample>>> Iterator for PackedWindows<I> {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.rows.pop_front() {
                self.cursor.rows += 1;
                if self.rows.is_empty() {
                    let taken = std::mem::take(&mut self.taken);
                    self.cursor.items = self.cursor.items.saturating_add(taken);
                    self.cursor.rows = 0;
                }
                return Some(Ok(row));
            }
            match self.fill() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
