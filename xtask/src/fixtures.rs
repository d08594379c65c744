//! `cargo xtask fixtures`: every fixture is what its manifest says, and every one is in it.
//!
//! `fixtures/manifest.json` holds `{"files": {"PATH": {"sha256": .., "bytes": ..}}}` with paths
//! relative to `fixtures/`; other keys (versions and seeds of the generators) are kept as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::console;
use crate::digest::Digest;
use crate::tidy::Finding;
use crate::workspace;

const MANIFEST: &str = "manifest.json";

/// What to do with the manifest.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Args {
    /// Compare files and manifest, both ways
    #[arg(long)]
    check: bool,
    /// Write sizes and hashes of the files as they are now into the manifest
    #[arg(long)]
    write: bool,
}

/// Checks or rewrites the manifest of the repository's fixtures.
pub(crate) fn run(args: &Args) -> Result<()> {
    let folder = workspace::root().join("fixtures");
    if args.write {
        let count = write(&folder)?;
        console::note(&format!("fixtures/{MANIFEST}: {count} files listed"));
        return Ok(());
    }
    let findings = findings(&folder)?;
    for finding in &findings {
        console::note(&finding.to_string());
    }
    anyhow::ensure!(
        findings.is_empty(),
        "{} fixtures differ from their manifest; if that is intended: cargo xtask fixtures --write",
        findings.len()
    );
    console::note("fixtures: all as in the manifest");
    Ok(())
}

/// Compares the files of `folder` with its manifest, both ways.
pub(crate) fn findings(folder: &Path) -> Result<Vec<Finding>> {
    let at = |path: &str| format!("fixtures/{path}");
    if !folder.join(MANIFEST).is_file() {
        return Ok(vec![Finding::new(
            at(MANIFEST),
            "is missing; `cargo xtask fixtures --write` makes one",
        )]);
    }
    let manifest = read(folder)?;
    let listed = listed(&manifest).with_context(|| format!("reading {}", at(MANIFEST)))?;
    let present = present(folder)?;
    let mut findings = Vec::new();
    let every = listed.keys().chain(present.keys()).collect::<BTreeSet<_>>();
    for path in every {
        let message = match (listed.get(path), present.get(path)) {
            (Some(_), None) => "is in the manifest but not on disk".to_owned(),
            (None, Some(_)) => "is not in the manifest".to_owned(),
            (Some(expected), Some(got)) if expected != got => format!(
                "differs: expected {} bytes with sha256 {}, got {} bytes with sha256 {}",
                expected.bytes, expected.sha256, got.bytes, got.sha256
            ),
            _ => continue,
        };
        findings.push(Finding::new(at(path), message));
    }
    Ok(findings)
}

fn write(folder: &Path) -> Result<usize> {
    let mut manifest = if folder.join(MANIFEST).is_file() {
        read(folder)?
    } else {
        Map::new()
    };
    let present = present(folder)?;
    let files = present
        .iter()
        .map(|(path, digest)| {
            (
                path.clone(),
                json!({ "sha256": digest.sha256, "bytes": digest.bytes }),
            )
        })
        .collect::<Map<_, _>>();
    manifest.insert("files".to_owned(), Value::Object(files));
    let text = serde_json::to_string_pretty(&manifest)?;
    fs::write(folder.join(MANIFEST), text + "\n")?;
    Ok(present.len())
}

fn read(folder: &Path) -> Result<Map<String, Value>> {
    let text = fs::read_to_string(folder.join(MANIFEST))?;
    serde_json::from_str(&text).with_context(|| format!("fixtures/{MANIFEST} is no JSON object"))
}

fn listed(manifest: &Map<String, Value>) -> Result<BTreeMap<String, Digest>> {
    let files = manifest
        .get("files")
        .and_then(Value::as_object)
        .context("no object `files`")?;
    files
        .iter()
        .map(|(path, entry)| {
            let bytes = entry.get("bytes").and_then(Value::as_u64);
            let sha256 = entry.get("sha256").and_then(Value::as_str);
            let (bytes, sha256) = bytes
                .zip(sha256)
                .with_context(|| format!("`{path}` needs `bytes` and `sha256`"))?;
            Ok((
                path.clone(),
                Digest {
                    bytes,
                    sha256: sha256.to_owned(),
                },
            ))
        })
        .collect()
}

/// All fixture files with their digests; readme files, generators and the manifest are none.
fn present(folder: &Path) -> Result<BTreeMap<String, Digest>> {
    workspace::files(folder)?
        .into_iter()
        .filter(|path| path != MANIFEST && !path.starts_with("gen/"))
        .filter(|path| path.rsplit('/').next() != Some("README.md"))
        .map(|path| {
            let digest =
                Digest::of(&folder.join(&path)).with_context(|| format!("fixtures/{path}"))?;
            Ok((path, digest))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_with_two_files() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("models/tiny")).unwrap();
        fs::create_dir(dir.path().join("gen")).unwrap();
        fs::write(dir.path().join("README.md"), "about").unwrap();
        fs::write(dir.path().join("gen/make.py"), "pass").unwrap();
        fs::write(dir.path().join("models/tiny/config.json"), "{}").unwrap();
        fs::write(dir.path().join("chat.json"), "[]").unwrap();
        dir
    }

    fn messages(folder: &Path) -> Vec<String> {
        findings(folder)
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_written_manifest_passes_the_check_and_keeps_other_keys() {
        let dir = folder_with_two_files();
        assert!(messages(dir.path())[0].contains("is missing"));
        fs::write(
            dir.path().join(MANIFEST),
            r#"{"versions": {"torch": "2"}, "files": {}}"#,
        )
        .unwrap();
        assert_eq!(write(dir.path()).unwrap(), 2);
        assert_eq!(messages(dir.path()), Vec::<String>::new());
        let manifest = read(dir.path()).unwrap();
        assert_eq!(manifest["versions"]["torch"], "2");
        assert_eq!(manifest["files"]["models/tiny/config.json"]["bytes"], 2);
    }

    #[test]
    fn changed_missing_and_unlisted_files_are_each_named() {
        let dir = folder_with_two_files();
        write(dir.path()).unwrap();
        fs::write(dir.path().join("chat.json"), "[1]").unwrap();
        fs::remove_file(dir.path().join("models/tiny/config.json")).unwrap();
        fs::write(dir.path().join("new.txt"), "new").unwrap();
        let messages = messages(dir.path());
        assert_eq!(messages.len(), 3, "{messages:?}");
        assert!(messages[0].starts_with("fixtures/chat.json: differs: expected 2 bytes"));
        assert!(messages[1].starts_with("fixtures/models/tiny/config.json: is in the manifest"));
        assert_eq!(messages[2], "fixtures/new.txt: is not in the manifest");
    }

    #[test]
    fn a_manifest_entry_without_a_hash_is_an_error() {
        let dir = folder_with_two_files();
        fs::write(
            dir.path().join(MANIFEST),
            r#"{"files": {"chat.json": {"bytes": 2}}}"#,
        )
        .unwrap();
        let error = format!("{:#}", findings(dir.path()).unwrap_err());
        assert!(
            error.contains("`chat.json` needs `bytes` and `sha256`"),
            "{error}"
        );
    }
}
