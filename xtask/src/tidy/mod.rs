//! `cargo xtask tidy`: the rules of this workspace that the compiler does not know.
//!
//! Each check is a function from the repository's root to its findings, and its rules are data at
//! the top of its file. The same checks run as a test of this package.

mod layers;
mod links;
mod manifests;
mod papers;
mod sources;

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::{console, fixtures, workspace};

/// One thing that breaks a rule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    place: String,
    message: String,
}

impl Finding {
    /// A finding at a file (`path` or `path:line`) or a package.
    pub(crate) fn new(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

type Check = fn(&Path) -> Result<Vec<Finding>>;

const CHECKS: &[(&str, Check)] = &[
    ("layers: who may depend on whom", layers::check),
    ("manifests: licence, lints, readme files", manifests::check),
    ("sources: sizes and forbidden marks", sources::check),
    ("links in Markdown files", links::check),
    ("papers name files that exist", papers::check),
    ("fixtures match their manifest", |root| {
        fixtures::findings(&root.join("fixtures"))
    }),
];

/// Runs all checks on this repository and lists everything found.
pub(crate) fn run() -> Result<()> {
    console::heading("tidy");
    let root = workspace::root();
    let mut count = 0;
    for (title, check) in CHECKS {
        let findings = check(&root).with_context(|| format!("tidy, {title}"))?;
        let verdict = if findings.is_empty() { "ok" } else { "FAILED" };
        console::note(&format!("{title}: {verdict}"));
        for finding in &findings {
            console::note(&format!("    {finding}"));
        }
        count += findings.len();
    }
    ensure!(count == 0, "tidy found {count} things to put right");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_repository_is_tidy() {
        run().unwrap();
    }

    /// A temporary tree of files for the tests of the checks.
    pub(super) fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        dir
    }

    /// What a check says about a tree, as text.
    pub(super) fn said(check: Check, dir: &tempfile::TempDir) -> Vec<String> {
        check(dir.path())
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect()
    }
}
