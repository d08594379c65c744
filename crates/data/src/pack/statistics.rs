//! How well rows are filled.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Row;

/// Counts over packed rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PackStatistics {
    /// Number of rows.
    pub rows: usize,
    /// Number of segments in them.
    pub segments: usize,
    /// Number of tokens in them.
    pub tokens: usize,
    /// Number of tokens that are the target of a prediction.
    pub supervised_tokens: usize,
    /// Number of tokens that the rows could hold.
    pub capacity: usize,
}

impl PackStatistics {
    /// Counts rows of at most `max_length` tokens.
    pub fn of<'a>(rows: impl IntoIterator<Item = &'a Row>, max_length: usize) -> Self {
        let mut statistics = Self::default();
        for row in rows {
            statistics.add(row, max_length);
        }
        statistics
    }

    /// Counts one more row.
    pub fn add(&mut self, row: &Row, max_length: usize) {
        self.rows += 1;
        self.segments += usize::try_from(row.segments()).unwrap_or(usize::MAX);
        self.tokens += row.len();
        self.supervised_tokens += row.num_supervised_tokens();
        self.capacity += max_length;
    }

    /// The share of the capacity that holds tokens, in `[0, 1]`; 1 without rows.
    #[expect(clippy::cast_precision_loss, reason = "a share for people to read")]
    pub fn fill(&self) -> f64 {
        match self.capacity {
            0 => 1.0,
            capacity => self.tokens as f64 / capacity as f64,
        }
    }
}

impl fmt::Display for PackStatistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} examples in {} rows, {:.1} % filled, {} of {} tokens trained",
            self.segments,
            self.rows,
            self.fill() * 100.0,
            self.supervised_tokens,
            self.tokens
        )
    }
}
