//! Large files that live outside the repository.

use std::env;
use std::path::{Path, PathBuf};

/// The path of a file of a downloaded asset, or `None`, said aloud, when it was not downloaded.
///
/// `cargo xtask fetch NAME` brings assets to `assets/NAME/FILE` in the cache folder:
/// `$FLAMETUNE_CACHE`, or else `$HOME/.cache/flametune`.
/// A test that needs one returns early when it is missing.
pub fn asset_path(name: &str, file: &str) -> Option<PathBuf> {
    let path = cache_folder()
        .map(|cache| cache.join("assets").join(name).join(file))
        .filter(|path| path.exists());
    if path.is_none() {
        skipped(&format!(
            "{name}/{file} is not here (run cargo xtask fetch {name})"
        ));
    }
    path
}

fn cache_folder() -> Option<PathBuf> {
    #[allow(
        clippy::disallowed_methods,
        reason = "tests find the cache as the commands do"
    )]
    let set = |variable| env::var_os(variable).filter(|value| !value.is_empty());
    match (set("FLAMETUNE_CACHE"), set("HOME")) {
        (Some(cache), _) => Some(cache.into()),
        (None, Some(home)) => Some(Path::new(&home).join(".cache").join("flametune")),
        (None, None) => None,
    }
}

/// Says on standard error that a part of a test did not run.
pub(crate) fn skipped(why: &str) {
    #[allow(
        clippy::print_stderr,
        reason = "a skipped test must not look like a passed one"
    )]
    {
        eprintln!("skipped: {why}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_asset_that_was_not_fetched_is_none() {
        assert_eq!(asset_path("no-such-asset", "model.gguf"), None);
    }
}
