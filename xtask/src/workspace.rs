//! Where things are: the repository, its files, its crates and the cache folder.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use xshell::Shell;

/// Folders that hold nothing of ours.
const NOT_OURS: &[&str] = &["target", ".git", ".cache"];

/// The repository's root folder.
pub(crate) fn root() -> PathBuf {
    let manifest_dir = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest_dir
        .parent()
        .map(Path::to_path_buf)
        .unwrap_or(manifest_dir)
}

/// A shell that runs its commands in the repository's root folder.
pub(crate) fn shell() -> Result<Shell> {
    let shell = Shell::new()?;
    shell.change_dir(root());
    Ok(shell)
}

/// The folder for downloads: `$FLAMETUNE_CACHE`, else `$HOME/.cache/flametune`.
pub(crate) fn cache_dir() -> Result<PathBuf> {
    let set = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    cache_dir_from(set("FLAMETUNE_CACHE"), set("HOME"))
}

fn cache_dir_from(flametune_cache: Option<PathBuf>, home: Option<PathBuf>) -> Result<PathBuf> {
    match (flametune_cache, home) {
        (Some(cache), _) => Ok(cache),
        (None, Some(home)) => Ok(home.join(".cache").join("flametune")),
        (None, None) => bail!("neither FLAMETUNE_CACHE nor HOME is set: no place for downloads"),
    }
}

/// All files below `root`, as sorted paths relative to it with `/` between the parts.
///
/// Symbolic links and folders that hold nothing of ours are left out.
pub(crate) fn files(root: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    collect(root, "", &mut found)?;
    found.sort();
    Ok(found)
}

fn collect(dir: &Path, prefix: &str, found: &mut Vec<String>) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        if kind.is_dir() && !NOT_OURS.contains(&name.as_str()) {
            collect(&entry.path(), &format!("{path}/"), found)?;
        } else if kind.is_file() {
            found.push(path);
        }
    }
    Ok(())
}

/// A package of the workspace as the command line may name it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Package {
    /// Its name in `Cargo.toml`.
    pub(crate) name: String,
    /// Whether it has a library, and so can have documentation tests.
    pub(crate) has_library: bool,
}

/// Finds a package by its folder (`lm`) or its full name (`flametune-lm`).
pub(crate) fn package(root: &Path, named: &str) -> Result<Package> {
    let short = named.strip_prefix("flametune-").unwrap_or(named);
    let (name, folder) = match short {
        "xtask" => ("xtask".to_owned(), root.join("xtask")),
        _ => (
            format!("flametune-{short}"),
            root.join("crates").join(short),
        ),
    };
    if short.is_empty() || !folder.join("Cargo.toml").is_file() {
        bail!(
            "no crate `{named}` here; there are: {}",
            known_packages(root)?.join(", ")
        );
    }
    Ok(Package {
        name,
        has_library: folder.join("src").join("lib.rs").is_file(),
    })
}

fn known_packages(root: &Path) -> Result<Vec<String>> {
    let mut names = vec!["xtask".to_owned()];
    for entry in fs::read_dir(root.join("crates")).context("reading crates/")? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_variable_wins_over_the_home_folder() {
        let (cache, home) = (Some(PathBuf::from("/c")), Some(PathBuf::from("/h")));
        assert_eq!(
            cache_dir_from(cache, home.clone()).unwrap(),
            Path::new("/c")
        );
        assert_eq!(
            cache_dir_from(None, home).unwrap(),
            Path::new("/h/.cache/flametune")
        );
        assert!(
            cache_dir_from(None, None)
                .unwrap_err()
                .to_string()
                .contains("FLAMETUNE_CACHE")
        );
    }

    #[test]
    fn files_are_sorted_and_build_outputs_left_out() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["b.rs", "a/z.md", "a/target/x.o", ".git/HEAD", ".ci/run"] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        assert_eq!(files(dir.path()).unwrap(), [".ci/run", "a/z.md", "b.rs"]);
    }

    #[test]
    fn packages_are_found_by_folder_or_full_name() {
        let root = root();
        let kernels = Package {
            name: "flametune-kernels".to_owned(),
            has_library: true,
        };
        assert_eq!(package(&root, "kernels").unwrap(), kernels);
        assert_eq!(package(&root, "flametune-kernels").unwrap(), kernels);
        assert!(!package(&root, "xtask").unwrap().has_library);
        let error = package(&root, "kernel").unwrap_err().to_string();
        assert!(
            error.contains("`kernel`") && error.contains("kernels"),
            "{error}"
        );
    }
}
