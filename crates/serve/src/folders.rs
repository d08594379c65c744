//! Which folders an adapter may be loaded from, and what it may be called.

use std::path::{Component, Path, PathBuf};

use axum::http::StatusCode;

use crate::api::ApiError;

/// Checks a name that requests pick an adapter by.
pub(crate) fn check_name(name: &str) -> Result<(), ApiError> {
    const MAX_BYTES: usize = 128;
    let usable = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    let begins = name
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric());
    if name.len() > MAX_BYTES || !name.bytes().all(usable) || !begins {
        return Err(ApiError::invalid_param(
            "lora_name",
            "lora_name must have at most 128 letters, digits and -_.: and begin with a letter or \
             digit",
        ));
    }
    Ok(())
}

/// The folder that `path` means, which lies under `root` with all links resolved.
///
/// `root` is resolved itself. What is said does not depend on what lies outside of it.
pub(crate) fn under_root(root: &Path, path: &str) -> Result<PathBuf, ApiError> {
    let outside = || {
        ApiError::invalid_param(
            "lora_path",
            "lora_path must lie under the server's folder of adapters",
        )
    };
    let given = Path::new(path);
    if path.is_empty() || path.contains('\0') {
        return Err(outside());
    }
    let plain = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    let relative = given.strip_prefix(root).unwrap_or(given);
    if !relative.components().all(plain) {
        return Err(outside());
    }
    let Ok(folder) = root.join(relative).canonicalize() else {
        return Err(ApiError::with_status(
            StatusCode::NOT_FOUND,
            "there is no such folder of an adapter",
        )
        .with_param("lora_path"));
    };
    if !folder.starts_with(root) {
        return Err(outside());
    }
    if !folder.is_dir() {
        return Err(ApiError::invalid_param(
            "lora_path",
            "lora_path must be a folder",
        ));
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_no_way_out() {
        for name in ["sql", "team-sql:v2", "a.b:c_d"] {
            check_name(name).unwrap();
        }
        for name in [
            "", ".", "..", "../x", "a/b", "/etc", "a\\b", "a b", "é", "a\n", "-x", ".hidden",
        ] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert!(check_name(&"x".repeat(129)).is_err());
    }

    #[test]
    fn only_folders_under_the_root_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("adapters");
        std::fs::create_dir_all(root.join("sql")).unwrap();
        std::fs::create_dir_all(folder.path().join("secret")).unwrap();
        std::fs::write(root.join("file"), "").unwrap();
        let root = root.canonicalize().unwrap();
        let found = under_root(&root, "sql").unwrap();
        assert_eq!(found, root.join("sql"));
        let absolute = root.join("sql");
        assert_eq!(
            under_root(&root, absolute.to_str().unwrap()).unwrap(),
            found
        );
        let outside = folder.path().join("secret");
        for path in [
            "../secret",
            "sql/../../secret",
            "sql/..",
            "/etc",
            "",
            "sql\0",
            "nothing",
            "file",
            outside.to_str().unwrap(),
        ] {
            assert!(under_root(&root, path).is_err(), "{path:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_out_of_the_root_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("adapters");
        std::fs::create_dir_all(&root).unwrap();
        std::fs::create_dir_all(folder.path().join("secret")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("secret"), root.join("link")).unwrap();
        assert!(under_root(&root.canonicalize().unwrap(), "link").is_err());
    }
}
