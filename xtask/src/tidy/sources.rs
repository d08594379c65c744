//! Sizes of source files and marks that no source may carry.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::Finding;
use crate::workspace;

/// Longer Rust files need a row below.
const MOST_LINES: usize = 800;

/// Files that may be longer, each with the reason.
const LONG_FILES: &[(&str, &str)] = &[];

/// A mark, the files it is forbidden in, and why.
struct Mark {
    /// Found where it stands as a word of its own.
    text: &'static str,
    forbidden_in: fn(path: &str) -> bool,
    reason: &'static str,
}

// Written in pieces, so that this file does not find itself.
const MARKS: &[Mark] = &[
    Mark {
        text: concat!("TO", "DO"),
        forbidden_in: |_| true,
        reason: "finish it or file an issue",
    },
    Mark {
        text: concat!("FIX", "ME"),
        forbidden_in: |_| true,
        reason: "finish it or file an issue",
    },
    Mark {
        text: concat!("#[", "ignore"),
        forbidden_in: is_rust,
        reason: "a test runs or does not exist",
    },
    Mark {
        // The lint is denied everywhere, so unsafe code cannot be written without naming it.
        text: concat!("unsafe", "_code"),
        forbidden_in: |path| is_rust(path) && !path.starts_with("crates/kernels/"),
        reason: "unsafe code lives in the crate kernels",
    },
];

/// Endings of the files that are sources.
const SOURCES: &[&str] = &[".rs", ".py", ".sh", ".toml", ".wgsl"];

/// Looks at every source file.
pub(super) fn check(root: &Path) -> Result<Vec<Finding>> {
    let files = workspace::files(root)?;
    let mut findings = stale_exceptions(&files);
    for path in &files {
        if !SOURCES.iter().any(|ending| path.ends_with(ending)) {
            continue;
        }
        let text = fs::read_to_string(root.join(path)).with_context(|| path.clone())?;
        findings.extend(size(path, &text));
        findings.extend(marks(path, &text));
    }
    Ok(findings)
}

fn is_rust(path: &str) -> bool {
    path.ends_with(".rs")
}

fn stale_exceptions(files: &[String]) -> Vec<Finding> {
    LONG_FILES
        .iter()
        .filter(|(path, _)| !files.iter().any(|file| file == path))
        .map(|(path, _)| Finding::new(*path, "is excused by tidy but does not exist"))
        .collect()
}

fn size(path: &str, text: &str) -> Option<Finding> {
    let lines = text.lines().count();
    let excused = LONG_FILES.iter().any(|(file, _)| *file == path);
    if !is_rust(path) || path.starts_with("fixtures/") || lines <= MOST_LINES || excused {
        return None;
    }
    Some(Finding::new(
        path,
        format!("has {lines} lines, more than {MOST_LINES}: split it, or excuse it with a reason"),
    ))
}

fn marks(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for mark in MARKS.iter().filter(|mark| (mark.forbidden_in)(path)) {
        for (line, content) in text.lines().enumerate() {
            if has_word(content, mark.text) {
                findings.push(Finding::new(
                    format!("{path}:{}", line + 1),
                    format!("`{}`: {}", mark.text, mark.reason),
                ));
            }
        }
    }
    findings
}

fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        let after = line[start + word.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{said, tree};
    use super::*;

    #[test]
    fn a_long_file_is_found_unless_it_is_a_fixture() {
        let (long, fits) = ("//\n".repeat(801), "//\n".repeat(800));
        let dir = tree(&[
            ("crates/lm/src/long.rs", &long),
            ("crates/lm/src/fits.rs", &fits),
            ("fixtures/generated.rs", &long),
            ("notes.md", &long),
        ]);
        assert_eq!(
            said(check, &dir),
            ["crates/lm/src/long.rs: has 801 lines, more than 800: \
              split it, or excuse it with a reason"]
        );
    }

    #[test]
    fn marks_are_found_as_words_in_sources_only() {
        let todo = concat!("// TO", "DO later\n");
        let dir = tree(&[
            ("a.rs", &format!("fn f() {{}}\n{todo}")),
            ("b.py", concat!("# FIX", "ME\n")),
            (
                "c.rs",
                concat!("let TO", "DOS = 1; // A_TO", "DO, todo!()\n"),
            ),
            ("d.md", todo),
        ]);
        let said = said(check, &dir);
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].starts_with("a.rs:2: "));
        assert!(said[1].starts_with("b.py:1: "));
    }

    #[test]
    fn ignored_tests_and_unsafe_code_outside_kernels_are_found() {
        let allow = concat!("#[allow(unsafe", "_code, reason = \"\")]\n");
        let dir = tree(&[
            ("crates/kernels/src/launch.rs", allow),
            ("crates/lm/src/map.rs", allow),
            (
                "crates/lm/tests/main.rs",
                concat!("#[", "ignore]\n", "#[", "ignore = \"slow\"]\n"),
            ),
        ]);
        let said = said(check, &dir);
        assert_eq!(said.len(), 3, "{said:?}");
        assert!(said[0].starts_with("crates/lm/src/map.rs:1: "));
        assert!(said[1].starts_with("crates/lm/tests/main.rs:1: "));
        assert!(said[2].starts_with("crates/lm/tests/main.rs:2: "));
    }

    #[test]
    fn every_exception_gives_a_reason() {
        assert!(LONG_FILES.iter().all(|(_, reason)| reason.len() > 10));
    }
}
