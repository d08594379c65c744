//! Runs as the store tells of them.

use std::collections::BTreeMap;
use std::fmt;

use rusqlite::Row;

use super::json;
use crate::record::progress::Seconds;
use crate::record::{RunDescription, table};

/// A run in a list.
#[derive(Debug, Clone, PartialEq)]
pub struct RunRow {
    /// Its number.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// When it began, in seconds since 1970.
    pub started: f64,
    /// When it ended, or was last heard of.
    pub finished: Option<f64>,
    /// How, by the name of a [`Status`](crate::record::Status).
    pub status: String,
    /// Optimizer steps taken.
    pub steps: i64,
    /// Its model.
    pub model: String,
    /// The mean loss of its last steps.
    pub train_loss: Option<f64>,
    /// Its last validation loss.
    pub eval_loss: Option<f64>,
}

impl RunRow {
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let metrics: BTreeMap<String, Option<f64>> = json(row, "final")?;
        let metric = |name: &str| metrics.get(name).copied().flatten();
        Ok(Self {
            id: row.get("id")?,
            name: row.get("name")?,
            started: row.get("started")?,
            finished: row.get("finished")?,
            status: row.get("status")?,
            steps: row.get("steps")?,
            model: row.get("model")?,
            train_loss: metric("train/loss"),
            eval_loss: metric("eval/loss"),
        })
    }

    fn duration(&self) -> String {
        let seconds = self.finished.map(|finished| finished - self.started);
        seconds.map_or_else(String::new, |seconds| Seconds(seconds).to_string())
    }
}

/// All runs, the latest first.
#[derive(Debug, Clone, PartialEq)]
pub struct RunList {
    /// The runs.
    pub runs: Vec<RunRow>,
}

impl fmt::Display for RunList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.runs.is_empty() {
            return f.write_str("no runs yet");
        }
        let mut table = table::plain();
        table.set_header([
            "id",
            "name",
            "started",
            "status",
            "steps",
            "took",
            "train loss",
            "eval loss",
            "model",
        ]);
        for run in &self.runs {
            table.add_row([
                run.id.to_string(),
                run.name.clone(),
                utc(run.started),
                run.status.replace('_', " "),
                run.steps.to_string(),
                run.duration(),
                number(run.train_loss),
                number(run.eval_loss),
                run.model.clone(),
            ]);
        }
        table::align_right(&mut table, 0..1);
        table::align_right(&mut table, 4..8);
        write!(f, "{}", table.trim_fmt())
    }
}

/// A run in full.
#[derive(Debug, Clone, PartialEq)]
pub struct RunDetails {
    /// The run.
    pub run: RunRow,
    /// What it is.
    pub description: RunDescription,
    /// Its final numbers.
    pub metrics: BTreeMap<String, f64>,
}

impl fmt::Display for RunDetails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            run,
            description,
            metrics,
        } = self;
        let mut table = table::plain();
        let mut row = |name: &str, value: String| {
            table.add_row([name.to_owned(), value]);
        };
        row("run", format!("{} ({})", run.name, run.id));
        row("status", run.status.replace('_', " "));
        row("started", utc(run.started));
        row("took", run.duration());
        row("folder", description.folder.clone());
        for (name, value) in super::compare::facts(description) {
            row(&name, value);
        }
        for (name, value) in metrics {
            row(name, number(Some(*value)));
        }
        write!(f, "{}", table.trim_fmt())
    }
}

/// Counts as they are, everything else with five significant digits.
pub(super) fn number(value: Option<f64>) -> String {
    match value {
        None => String::new(),
        Some(x) if !x.is_finite() => x.to_string(),
        Some(x) if x.fract() == 0.0 || x.abs() >= 1e5 => format!("{x:.0}"),
        Some(x) if x.abs() < 1e-3 => format!("{x:.4e}"),
        Some(x) => {
            let before = if x.abs() >= 1e4 {
                5
            } else if x.abs() >= 1e3 {
                4
            } else if x.abs() >= 1e2 {
                3
            } else if x.abs() >= 1e1 {
                2
            } else {
                1
            };
            format!("{x:.*}", 5 - before)
        }
    }
}

/// A time as `2026-01-31 12:34`, in UTC.
///
/// # Source
/// - Hinnant, chrono-compatible low-level date algorithms, `civil_from_days`
fn utc(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "saturates")]
    let minutes = (seconds / 60.0).floor() as i64;
    let days = minutes.div_euclid(1440).clamp(-1_000_000, 100_000_000);
    let minute = minutes.rem_euclid(1440);
    // Days since the first of March of the year 0, in eras of 400 years.
    let shifted = days + 719_468;
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month_of_year) = (day - (153 * month + 2) / 5 + 1, (month + 2) % 12 + 1);
    let year = year + era * 400 + i64::from(month_of_year <= 2);
    format!(
        "{year:04}-{month_of_year:02}-{day:02} {:02}:{:02}",
        minute / 60,
        minute % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        // Python: datetime.fromtimestamp(x, timezone.utc)
        for (seconds, date) in [
            (0.0, "1970-01-01 00:00"),
            (951_782_399.0, "2000-02-28 23:59"),
            (951_825_600.0, "2000-02-29 12:00"),
            (1_767_225_600.0, "2026-01-01 00:00"),
            (4_107_542_399.0, "2100-02-28 23:59"),
            (4_107_542_400.0, "2100-03-01 00:00"),
        ] {
            assert_eq!(utc(seconds), date);
        }
        assert!(!utc(f64::MAX).is_empty() && !utc(f64::NAN).is_empty());
    }

    #[test]
    fn numbers_have_five_digits() {
        let text = |x| number(Some(x));
        assert_eq!(text(1.234_567), "1.2346");
        assert_eq!(text(12_345.67), "12346");
        assert_eq!(text(0.000_2), "2.0000e-4");
        assert_eq!(text(20.0), "20");
        assert_eq!(text(f64::NAN), "NaN");
    }
}
