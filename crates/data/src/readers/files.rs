//! From paths, folders and patterns to the list of files.

use std::path::{Path, PathBuf};

use super::kind::FileKind;
use crate::error::{Error, Result};

/// Files beside the data in folders that `datasets` or a hub wrote.
const NOT_DATA: &[&str] = &[
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
    "readme.md",
    "license.md",
    "license.txt",
];

/// The files of one path: a file, a folder of shards, or a pattern with `*`, `?`, `[…]` or `**`.
///
/// Files come sorted by path. A folder's data files must be of one kind; files whose kind is unknown, hidden files,
/// and the descriptions that stand beside data are passed over.
///
/// # Errors
/// [`Error::NoFiles`] when nothing matches, [`Error::MixedFolder`], [`Error::Io`].
pub fn find_files(path: &str) -> Result<Vec<PathBuf>> {
    let exact = Path::new(path);
    if exact.is_file() {
        return Ok(vec![exact.to_owned()]);
    }
    if exact.is_dir() {
        return folder(exact);
    }
    let none = |reason: String| Error::NoFiles {
        pattern: path.to_owned(),
        reason,
    };
    if !path.contains(['*', '?', '[']) {
        return Err(none("no such file or folder".into()));
    }
    let found = glob::glob(path).map_err(|error| none(error.to_string()))?;
    let mut files = Vec::new();
    for file in found {
        let file = file.map_err(|error| Error::Io {
            path: error.path().to_owned(),
            source: error.into(),
        })?;
        if file.is_file() {
            files.push(file);
        }
    }
    if files.is_empty() {
        return Err(none("no file matches this pattern".into()));
    }
    files.sort();
    Ok(files)
}

fn folder(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found: Vec<(FileKind, PathBuf)> = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(current) = open.pop() {
        let io = |source| Error::Io {
            path: current.clone(),
            source,
        };
        for entry in std::fs::read_dir(&current).map_err(io)? {
            let path = entry.map_err(io)?.path();
            let name = path
                .file_name()
                .map(|name| name.to_string_lossy().to_ascii_lowercase())
                .unwrap_or_default();
            if name.starts_with('.') || NOT_DATA.contains(&name.as_str()) {
                continue;
            }
            // Links to folders are not followed: they can lead in circles.
            if path.is_dir() {
                if !path.is_symlink() {
                    open.push(path);
                }
            } else if let Some(kind) = FileKind::from_name(&path) {
                found.push((kind, path));
            }
        }
    }
    let mut kinds: Vec<_> = found.iter().map(|(kind, _)| *kind).collect();
    kinds.sort();
    kinds.dedup();
    match kinds.len() {
        0 => Err(Error::NoFiles {
            pattern: folder.display().to_string(),
            reason: "the folder holds no data file".into(),
        }),
        1 => {
            let mut files: Vec<_> = found.into_iter().map(|(_, path)| path).collect();
            files.sort();
            Ok(files)
        }
        _ => Err(Error::MixedFolder {
            folder: folder.to_owned(),
            kinds: kinds.into_iter().map(FileKind::name).collect(),
        }),
    }
}
