//! Every `Cargo.toml` takes licence and lints from the workspace; every crate introduces itself.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use toml::{Table, Value};

use super::Finding;
use crate::workspace;

const LICENCE: &str = "Apache-2.0";

/// How the full text of the licence begins.
const LICENCE_TITLE: &[&str] = &["Apache License", "Version 2.0, January 2004"];

/// Looks at all manifests, the licence file and the readme files of the crates.
pub(super) fn check(root: &Path) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    findings.extend(licence_file(root));
    for path in workspace::files(root)? {
        if path != "Cargo.toml" && !path.ends_with("/Cargo.toml") {
            continue;
        }
        let text = fs::read_to_string(root.join(&path))?;
        let manifest: Table = text.parse().with_context(|| format!("reading {path}"))?;
        findings.extend(manifest_findings(&path, &manifest));
        findings.extend(readme(root, &path));
    }
    Ok(findings)
}

fn licence_file(root: &Path) -> Option<Finding> {
    let text = fs::read_to_string(root.join("LICENSE")).unwrap_or_default();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let as_expected = LICENCE_TITLE
        .iter()
        .all(|title| lines.next() == Some(title));
    (!as_expected).then(|| Finding::new("LICENSE", format!("is not the full text of {LICENCE}")))
}

fn manifest_findings(path: &str, manifest: &Table) -> Vec<Finding> {
    let mut findings = Vec::new();
    let package = manifest.get("package").and_then(Value::as_table);
    let workspace = manifest.get("workspace").and_then(Value::as_table);
    // A package that is a workspace of its own (a fuzz target) has nothing to inherit from.
    if let (Some(package), None) = (package, workspace) {
        if !inherits(package.get("license")) {
            findings.push(Finding::new(
                path,
                "package needs `license.workspace = true`",
            ));
        }
        if !inherits(manifest.get("lints")) {
            findings.push(Finding::new(path, "needs `[lints] workspace = true`"));
        }
    }
    if let Some(workspace) = workspace {
        let shared = workspace.get("package").and_then(Value::as_table);
        let licence = shared.or(package).and_then(|table| table.get("license"));
        if licence.and_then(Value::as_str) != Some(LICENCE) {
            findings.push(Finding::new(path, format!("the licence must be {LICENCE}")));
        }
    }
    findings
}

fn inherits(value: Option<&Value>) -> bool {
    value
        .and_then(|value| value.get("workspace"))
        .and_then(Value::as_bool)
        == Some(true)
}

/// A crate below `crates/` has a `README.md` with something in it.
fn readme(root: &Path, manifest: &str) -> Option<Finding> {
    let folder = manifest.strip_suffix("/Cargo.toml")?;
    if folder.strip_prefix("crates/")?.contains('/') {
        return None;
    }
    let path = format!("{folder}/README.md");
    let text = fs::read_to_string(root.join(&path)).unwrap_or_default();
    text.trim()
        .is_empty()
        .then(|| Finding::new(path, "is missing or empty"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{said, tree};
    use super::*;

    const ROOT: &str = "[workspace]\nmembers = []\n[workspace.package]\nlicense = \"Apache-2.0\"\n";
    const CRATE: &str =
        "[package]\nname = \"a\"\nlicense.workspace = true\n[lints]\nworkspace = true\n";
    const TITLE: &str = "\n  Apache License\n  Version 2.0, January 2004\n";

    #[test]
    fn a_crate_that_inherits_and_introduces_itself_passes() {
        let fuzz = "[package]\nname = \"f\"\nlicense = \"Apache-2.0\"\n[workspace]\n";
        let dir = tree(&[
            ("LICENSE", TITLE),
            ("Cargo.toml", ROOT),
            ("crates/a/Cargo.toml", CRATE),
            ("crates/a/README.md", "# a"),
            ("crates/a/fuzz/Cargo.toml", fuzz),
        ]);
        assert_eq!(said(check, &dir), Vec::<String>::new());
    }

    #[test]
    fn other_licences_missing_lints_and_missing_texts_are_found() {
        let own = "[package]\nname = \"a\"\nlicense = \"MIT\"\n";
        let dir = tree(&[
            ("LICENSE", "MIT License"),
            ("Cargo.toml", &ROOT.replace("Apache-2.0", "MIT")),
            ("crates/a/Cargo.toml", own),
        ]);
        assert_eq!(
            said(check, &dir),
            [
                "LICENSE: is not the full text of Apache-2.0",
                "Cargo.toml: the licence must be Apache-2.0",
                "crates/a/Cargo.toml: package needs `license.workspace = true`",
                "crates/a/Cargo.toml: needs `[lints] workspace = true`",
                "crates/a/README.md: is missing or empty",
            ]
        );
    }
}
