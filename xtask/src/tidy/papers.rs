//! `docs/PAPERS.md`: a table of papers whose other columns name the files that implement them.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::Finding;

const PAGE: &str = "docs/PAPERS.md";

/// Every row names at least one file, and every file it names exists.
///
/// Files stand as code in any column but the first, relative to the repository's root; an item
/// may follow the path: `` `crates/lm/src/rope.rs::yarn` ``.
pub(super) fn check(root: &Path) -> Result<Vec<Finding>> {
    if !root.join(PAGE).is_file() {
        return Ok(vec![Finding::new(PAGE, "is missing")]);
    }
    let text = fs::read_to_string(root.join(PAGE))?;
    let mut findings = Vec::new();
    for (line, row) in rows(&text) {
        let place = format!("{PAGE}:{line}");
        let paths = paths(row);
        if paths.is_empty() {
            findings.push(Finding::new(&place, "names no file"));
        }
        for path in paths.iter().filter(|path| !root.join(path).exists()) {
            findings.push(Finding::new(&place, format!("`{path}` does not exist")));
        }
    }
    Ok(findings)
}

/// Line numbers and text of the rows below the heads of the tables.
fn rows(text: &str) -> Vec<(usize, &str)> {
    let mut rows = Vec::new();
    let mut below_head = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if !line.starts_with('|') {
            below_head = false;
        } else if line.chars().all(|c| "|-: ".contains(c)) {
            below_head = true;
        } else if below_head {
            rows.push((index + 1, line));
        }
    }
    rows
}

/// The paths among the code spans of all cells but the first.
fn paths(row: &str) -> Vec<&str> {
    let cells = row
        .trim_start_matches('|')
        .split_once('|')
        .map_or("", |(_, rest)| rest);
    cells
        .split('`')
        .skip(1)
        .step_by(2)
        .map(|code| code.split("::").next().unwrap_or(code))
        .filter(|path| path.contains('/'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{said, tree};
    use super::*;

    const HEAD: &str = "# Papers\n\n| paper | file | fixture |\n|---|:--|---|\n";

    #[test]
    fn rows_whose_files_exist_pass() {
        let row = "| LoRA `a/b` | `crates/peft/src/lora.rs::Lora`, `crates/peft/` | `r = 8` |\n";
        let dir = tree(&[
            (PAGE, &format!("{HEAD}{row}\nText with `no/such` path.\n")),
            ("crates/peft/src/lora.rs", ""),
        ]);
        assert_eq!(said(check, &dir), Vec::<String>::new());
    }

    #[test]
    fn rows_without_files_or_with_absent_ones_are_found() {
        let rows = "| LoRA | – | – |\n| YaRN | `crates/lm/src/yarn.rs` | `fixtures/yarn.json` |\n";
        let dir = tree(&[(PAGE, &format!("{HEAD}{rows}")), ("fixtures/yarn.json", "")]);
        assert_eq!(
            said(check, &dir),
            [
                "docs/PAPERS.md:5: names no file",
                "docs/PAPERS.md:6: `crates/lm/src/yarn.rs` does not exist",
            ]
        );
        assert_eq!(said(check, &tree(&[])), ["docs/PAPERS.md: is missing"]);
    }
}
