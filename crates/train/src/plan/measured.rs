//! A prediction beside a dry run.

use std::fmt;

use super::Plan;
use crate::record::{Bytes, table};

/// What was predicted and what a dry run took.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Name, predicted bytes, measured bytes.
    pub rows: Vec<(String, u64, u64)>,
}

impl Measured {
    /// Sets the peak of a dry run on the longest batch beside that of `plan`.
    pub fn peak(plan: &Plan, peak_bytes: u64) -> Self {
        Self {
            rows: vec![("peak".to_owned(), plan.peak_bytes(), peak_bytes)],
        }
    }

    /// Adds what was measured of components by their names, such as the bytes of the weights.
    #[must_use]
    pub fn with(mut self, plan: &Plan, component: &str, bytes: u64) -> Self {
        let at = self.rows.len() - 1;
        let row = (component.to_owned(), plan.bytes_of(component), bytes);
        self.rows.insert(at, row);
        self
    }

    /// What was measured over what was predicted, of the peak.
    pub fn ratio(&self) -> f64 {
        self.rows.last().map_or(1.0, ratio)
    }
}

fn ratio((_, predicted, measured): &(String, u64, u64)) -> f64 {
    *measured as f64 / (*predicted).max(1) as f64
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = table::plain();
        table.set_header(["component", "predicted", "measured", "measured / predicted"]);
        for row in &self.rows {
            table.add_row([
                row.0.clone(),
                Bytes(row.1).to_string(),
                Bytes(row.2).to_string(),
                format!("{:.2}", ratio(row)),
            ]);
        }
        table::align_right(&mut table, 1..4);
        write!(f, "{}", table.trim_fmt())
    }
}
