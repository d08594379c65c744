//! Fresh results beside earlier ones.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use xshell::{Shell, cmd};

use super::RESULTS;
use super::results::{Line, Results};
use crate::workspace;

/// Reads earlier results: a file of lines, or what the repository kept at a revision.
pub(super) fn base(shell: &Shell, base: &str, device: &str) -> Result<Results> {
    let text = if Path::new(base).is_file() {
        fs::read_to_string(base).with_context(|| base.to_owned())?
    } else {
        let root = workspace::root();
        let object = format!("{base}:{RESULTS}/{device}.jsonl");
        cmd!(shell, "git -C {root} show {object}")
            .quiet()
            .ignore_stderr()
            .read()
            .with_context(|| {
                format!("`{base}` is no file, and no revision with {RESULTS}/{device}.jsonl")
            })?
    };
    let results = Results::from_jsonl(&text).with_context(|| base.to_owned())?;
    ensure!(!results.is_empty(), "{base} has no results");
    Ok(results)
}

/// A table of our values now and then, a row for each fresh result that has an earlier one.
///
/// A change beyond the spread of both, where the ranges of their runs do not meet, is called better
/// or worse.
pub(super) fn table(then: &Results, now: &Results) -> String {
    let mut text = format!(
        "{:<26} {:<6} {:<18} {:>10} {:>10}  {:<8} {:>5}  ratio to peer\n",
        "case", "format", "size", "then", "now", "unit", "÷"
    );
    for fresh in now.lines() {
        let Some(old) = then.lines().iter().find(|old| old.key() == fresh.key()) else {
            let _ = writeln!(
                text,
                "{:<26} {:<6} {:<18} is new",
                fresh.bench, fresh.dtype, fresh.shape
            );
            continue;
        };
        let peers = match (old.ratio, fresh.ratio) {
            (Some(old), Some(fresh)) => format!("{old:.2} → {fresh:.2}"),
            (None, Some(fresh)) => format!("→ {fresh:.2}"),
            _ => String::new(),
        };
        let row = format!(
            "{:<26} {:<6} {:<18} {:>10} {:>10}  {:<8} {:>5.2}  {peers} {}",
            fresh.bench,
            fresh.dtype,
            fresh.shape,
            old.value,
            fresh.value,
            fresh.unit,
            fresh.value / old.value,
            verdict(old, fresh)
        );
        let _ = writeln!(text, "{}", row.trim_end());
    }
    text
}

/// What became of a case, where the runs tell.
fn verdict(old: &Line, fresh: &Line) -> &'static str {
    let apart = fresh.min > old.max || fresh.max < old.min;
    let grown = fresh.value > old.value;
    match (apart, grown == fresh.more_is_better()) {
        (false, _) => "",
        (true, true) => "better",
        (true, false) => "worse",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(bench: &str, unit: &str, [min, value, max]: [f64; 3]) -> String {
        format!(
            r#"{{"bench":"{bench}","device":"cpu","dtype":"f32","shape":"1x2","value":{value:?},"unit":"{unit}","min":{min:?},"max":{max:?},"runs":3,"threads":2,"machine":"a CPU","commit":"c0ffee"}}"#
        )
    }

    fn results(lines: &[String]) -> Results {
        Results::from_jsonl(&lines.join("\n")).unwrap()
    }

    #[test]
    fn changes_beyond_the_spread_are_called_better_or_worse() {
        let then = results(&[
            line("a", "tok/s", [9.0, 10.0, 11.0]),
            line("b", "tok/s", [9.0, 10.0, 11.0]),
            line("c", "MB", [9.0, 10.0, 11.0]),
            line("d", "MB", [9.0, 10.0, 11.0]),
        ]);
        let now = results(&[
            line("a", "tok/s", [12.0, 13.0, 14.0]),
            line("b", "tok/s", [10.5, 11.5, 12.5]),
            line("c", "MB", [12.0, 13.0, 14.0]),
            line("d", "MB", [7.0, 8.0, 8.5]),
            line("e", "MB", [7.0, 8.0, 8.5]),
        ]);
        let table = table(&then, &now);
        let ends: Vec<&str> = table
            .lines()
            .skip(1)
            .map(|row| row.split_whitespace().last().unwrap())
            .collect();
        assert_eq!(ends, ["better", "1.15", "worse", "better", "new"]);
        assert!(table.lines().nth(1).unwrap().contains(" 1.30 "), "{table}");
    }

    #[test]
    fn a_base_that_is_neither_file_nor_revision_is_named() {
        let shell = Shell::new().unwrap();
        let error = base(&shell, "no-such-revision", "cpu").unwrap_err();
        assert_eq!(
            error.to_string(),
            "`no-such-revision` is no file, and no revision with benches/results/cpu.jsonl"
        );
    }

    #[test]
    fn a_file_of_results_is_a_base() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("old.jsonl");
        fs::write(&file, line("a", "s", [1.0, 2.0, 3.0])).unwrap();
        let shell = Shell::new().unwrap();
        let read = base(&shell, file.to_str().unwrap(), "cpu").unwrap();
        assert_eq!(read.lines().len(), 1);
    }
}
