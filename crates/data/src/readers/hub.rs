//! Data sets of the Hugging Face hub, where they were fetched to.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// What the paths of such data sets begin with.
const PREFIX: &str = "hub:";

/// The folder, or the pattern within it, that `hub:OWNER/NAME[@REVISION][/PATTERN]` stands for; `None` for a path that
/// does not begin so.
///
/// `folders` are where data sets were fetched to; nothing is downloaded. In each of them a data set is
///
/// - `datasets--OWNER--NAME` or `datasets--OWNER--NAME@REVISION`, its files as the hub has them, or
/// - `datasets--OWNER--NAME/snapshots/COMMIT`, as the Hugging Face libraries keep them; `refs/REVISION` names the
///   commit, with `main` for a revision where none is asked for.
///
/// # Errors
/// [`Error::InvalidOption`] for a name that is none, [`Error::NotFetched`] with the folders that were looked at.
///
/// # Examples
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let hub = tempfile::tempdir()?;
/// let fetched = hub.path().join("datasets--tatsu-lab--alpaca");
/// std::fs::create_dir(&fetched)?;
/// let folders = [hub.path().to_owned()];
/// let found = flametune_data::hub_path("hub:tatsu-lab/alpaca/data/*.parquet", &folders)?;
/// assert_eq!(found, Some(fetched.join("data/*.parquet")));
/// assert_eq!(flametune_data::hub_path("train.jsonl", &folders)?, None);
/// # Ok(())
/// # }
/// ```
pub fn hub_path(path: &str, folders: &[PathBuf]) -> Result<Option<PathBuf>> {
    let Some(given) = path.strip_prefix(PREFIX) else {
        return Ok(None);
    };
    let name = Name::parse(given).ok_or_else(|| Error::InvalidOption {
        option: "paths".into(),
        expected: "hub:OWNER/NAME, with @REVISION and /PATTERN where wanted",
        got: format!("{path:?}"),
    })?;
    let mut looked_at = Vec::new();
    for folder in folders {
        for candidate in name.folders(folder) {
            if candidate.is_dir() {
                return Ok(Some(match name.pattern {
                    None => candidate,
                    // What is special in a pattern may stand in the name of the folder.
                    Some(pattern) if pattern.contains(['*', '?', '[']) => {
                        PathBuf::from(glob::Pattern::escape(&candidate.to_string_lossy()))
                            .join(pattern)
                    }
                    Some(pattern) => candidate.join(pattern),
                }));
            }
            looked_at.push(candidate);
        }
    }
    Err(Error::NotFetched {
        name: format!("{PREFIX}{}/{}", name.owner, name.name),
        looked_at,
    })
}

/// The parts of `OWNER/NAME[@REVISION][/PATTERN]`.
#[derive(Debug, PartialEq, Eq)]
struct Name<'a> {
    owner: &'a str,
    name: &'a str,
    revision: Option<&'a str>,
    pattern: Option<&'a str>,
}

impl<'a> Name<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (owner, rest) = text.split_once('/')?;
        let (name, pattern) = match rest.split_once('/') {
            Some((name, pattern)) => (name, Some(pattern)),
            None => (rest, None),
        };
        let (name, revision) = match name.split_once('@') {
            Some((name, revision)) => (name, Some(revision)),
            None => (name, None),
        };
        let is_word = |word: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !word.is_empty() && !word.starts_with('.') && word.chars().all(allowed)
        };
        // A pattern stays in the folder of its data set.
        let stays = |pattern: &str| {
            let is_part = |part: &str| !part.is_empty() && part != ".." && part != ".";
            !pattern.contains(['\\', ':']) && pattern.split('/').all(is_part)
        };
        let well_formed = is_word(owner)
            && is_word(name)
            && revision.is_none_or(is_word)
            && pattern.is_none_or(stays);
        well_formed.then_some(Self {
            owner,
            name,
            revision,
            pattern,
        })
    }

    /// Where the data set may be.
    fn folders(&self, hub: &Path) -> Vec<PathBuf> {
        let Self { owner, name, .. } = self;
        let plain = hub.join(format!("datasets--{owner}--{name}"));
        let commit = self.revision.unwrap_or("main");
        let named = fs::read_to_string(plain.join("refs").join(commit));
        let commit = named.map_or_else(|_| commit.to_owned(), |commit| commit.trim().to_owned());
        let mut folders = Vec::new();
        if commit
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        {
            folders.push(plain.join("snapshots").join(&commit));
        }
        match self.revision {
            Some(revision) => {
                folders.push(hub.join(format!("datasets--{owner}--{name}@{revision}")))
            }
            // Beside snapshots of other commits there are no files of the data set itself.
            None if plain.join("snapshots").is_dir() => {}
            None => folders.push(plain),
        }
        folders
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart_and_checked() {
        let name = Name::parse("a-b/c.d@v1/data/train-*.parquet").unwrap();
        let expected = Name {
            owner: "a-b",
            name: "c.d",
            revision: Some("v1"),
            pattern: Some("data/train-*.parquet"),
        };
        assert_eq!(name, expected);
        for wrong in [
            "", "a", "a/", "/b", "a/b@", "../b", "a/.b", "a/b/", "a/b/../c", "a/b/..", "a/b//c",
            "a b/c", "a/b/c:d", "a/b/c\\d", "a/b@../c",
        ] {
            assert_eq!(Name::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn fetched_folders_of_both_kinds_are_found() {
        let hub = tempfile::tempdir().unwrap();
        let make = |path: &str| {
            let path = hub.path().join(path);
            fs::create_dir_all(&path).unwrap();
            path
        };
        let folders = [hub.path().join("absent"), hub.path().to_owned()];
        let found = |path: &str| hub_path(path, &folders).unwrap().unwrap();

        let ours = make("datasets--o--ours");
        assert_eq!(found("hub:o/ours"), ours);
        assert_eq!(found("hub:o/ours/x.jsonl"), ours.join("x.jsonl"));
        let at = make("datasets--o--ours@v2");
        assert_eq!(found("hub:o/ours@v2"), at);

        let snapshot = make("datasets--o--theirs/snapshots/0123abc");
        let refs = make("datasets--o--theirs/refs");
        fs::write(refs.join("main"), "0123abc\n").unwrap();
        assert_eq!(found("hub:o/theirs"), snapshot);
        assert_eq!(found("hub:o/theirs@0123abc"), snapshot);
        // A ref that leads elsewhere is not followed.
        fs::write(refs.join("main"), "../../..").unwrap();
        assert!(hub_path("hub:o/theirs", &folders).is_err());
    }

    #[test]
    fn what_was_not_fetched_is_named_with_the_way_to_get_it() {
        let folders = [PathBuf::from("hub")];
        let error = hub_path("hub:o/n/*.csv", &folders).unwrap_err().to_string();
        assert_eq!(
            error,
            "hub:o/n was not fetched: looked for hub/datasets--o--n/snapshots/main, \
             hub/datasets--o--n; `cargo xtask fetch hub:datasets/o/n` fetches it"
        );
        let error = hub_path("hub:o", &folders).unwrap_err().to_string();
        assert!(error.contains("hub:OWNER/NAME"), "{error}");
        assert_eq!(hub_path("o/n", &folders).unwrap(), None);
    }
}
