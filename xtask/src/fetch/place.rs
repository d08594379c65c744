//! From an archive in a registry to checked files in the cache, never half-written ones.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::assets::{Archive, Asset, Member};
use super::registry::Registry;
use crate::console;
use crate::digest::Digest;

/// What had to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Every file was in its place with the right content.
    AlreadyThere,
    /// So many files were written.
    Placed(usize),
}

/// Puts the files of an asset into `<cache>/assets/<name>/`.
///
/// A file appears under its name only when its content is checked. A finished archive stays in
/// `<cache>/downloads/` and is used again.
pub(crate) fn place(asset: &Asset, cache: &Path, registry: &dyn Registry) -> Result<Outcome> {
    let folder = super::folder(asset, cache);
    let mut missing = Vec::new();
    for member in asset.members {
        if !is_right(&folder.join(member.file), member.bytes, member.sha256)? {
            missing.push(member);
        }
    }
    if missing.is_empty() {
        return Ok(Outcome::AlreadyThere);
    }
    let archive = archive(&asset.archive, cache, registry)?;
    for member in &missing {
        extract(member, &archive, &folder, registry)?;
    }
    Ok(Outcome::Placed(missing.len()))
}

/// The path of the checked archive, downloaded unless it is there.
fn archive(archive: &Archive, cache: &Path, registry: &dyn Registry) -> Result<PathBuf> {
    let downloads = cache.join("downloads");
    let finished = downloads.join(archive.file);
    if is_right(&finished, archive.bytes, archive.sha256)? {
        console::note(&format!(
            "using the finished download {}",
            finished.display()
        ));
        return Ok(finished);
    }
    console::note(&format!(
        "downloading {} {}, {}",
        archive.package,
        archive.version,
        super::megabytes(archive.bytes)
    ));
    let partial = Partial::folder(&downloads, archive.file)?;
    registry.download(archive, &partial.0)?;
    let arrived = partial.0.join(archive.file);
    demand(&arrived, archive.bytes, archive.sha256)?;
    fs::rename(&arrived, &finished)?;
    Ok(finished)
}

fn extract(member: &Member, archive: &Path, folder: &Path, registry: &dyn Registry) -> Result<()> {
    let finished = folder.join(member.file);
    let parent = finished.parent().context("a file has a folder")?;
    let partial = Partial::folder(parent, "file")?;
    let arrived = partial.0.join("content");
    registry.extract(archive, member.path, &arrived)?;
    demand(&arrived, member.bytes, member.sha256).with_context(|| member.file)?;
    fs::rename(&arrived, &finished)?;
    Ok(())
}

/// Whether the file is there with exactly this content.
fn is_right(path: &Path, bytes: u64, sha256: &str) -> Result<bool> {
    match fs::metadata(path) {
        // The size alone tells most wrong files, without reading them.
        Ok(metadata) if metadata.len() == bytes => {
            let digest = Digest::of(path).with_context(|| path.display().to_string())?;
            Ok(digest.sha256 == sha256)
        }
        _ => Ok(false),
    }
}

/// An error that names both digests unless the content is the right one.
fn demand(path: &Path, bytes: u64, sha256: &str) -> Result<()> {
    let got = Digest::of(path).context("the download left no file")?;
    if got.bytes != bytes || got.sha256 != sha256 {
        bail!(
            "wrong content, nothing kept: expected {bytes} bytes with sha256 {sha256}, \
             got {} bytes with sha256 {}",
            got.bytes,
            got.sha256
        );
    }
    Ok(())
}

/// A folder for unfinished work, beside the finished files and gone with this value.
#[derive(Debug)]
struct Partial(PathBuf);

impl Partial {
    fn folder(beside: &Path, name: &str) -> Result<Self> {
        let path = beside.join(format!(".partial-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // What cannot be removed is never taken for finished.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::super::assets::Kind;
    use super::*;

    /// sha256 of `whole archive` and `hello`.
    const ARCHIVE: &str = "b092e4b92e2f991af9d7ed6746b76cd346f480a2d37fd558cc0ebb8d7591dfb7";
    const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    fn asset(archive_sha256: &'static str) -> Asset {
        Asset {
            name: "greeting",
            about: "",
            licence: "",
            archive: Archive {
                kind: Kind::Wheel,
                package: "greeting",
                version: "1.0",
                file: "greeting-1.0.whl",
                bytes: 13,
                sha256: archive_sha256,
            },
            members: &[Member {
                path: &["pkg/hello"],
                file: "sub/hello",
                bytes: 5,
                sha256: HELLO,
            }],
        }
    }

    /// Serves fixed bytes and counts what it is asked for.
    struct Fake {
        archive: &'static str,
        member: &'static str,
        downloads: Cell<usize>,
        extractions: Cell<usize>,
    }

    impl Fake {
        fn new(archive: &'static str, member: &'static str) -> Self {
            Self {
                archive,
                member,
                downloads: Cell::new(0),
                extractions: Cell::new(0),
            }
        }
    }

    impl Registry for Fake {
        fn download(&self, archive: &Archive, folder: &Path) -> Result<()> {
            self.downloads.set(self.downloads.get() + 1);
            Ok(fs::write(folder.join(archive.file), self.archive)?)
        }

        fn extract(&self, _archive: &Path, member: &[&str], to: &Path) -> Result<()> {
            assert_eq!(member, ["pkg/hello"]);
            self.extractions.set(self.extractions.get() + 1);
            Ok(fs::write(to, self.member)?)
        }
    }

    /// All files below the cache, partial ones included.
    fn cached(cache: &Path) -> Vec<String> {
        crate::workspace::files(cache).unwrap()
    }

    #[test]
    fn files_are_placed_once_and_mended_from_the_kept_archive() {
        let cache = tempfile::tempdir().unwrap();
        let registry = Fake::new("whole archive", "hello");
        let asset = asset(ARCHIVE);
        let place = || place(&asset, cache.path(), &registry).unwrap();
        assert_eq!(place(), Outcome::Placed(1));
        let file = cache.path().join("assets/greeting/sub/hello");
        assert_eq!(fs::read_to_string(&file).unwrap(), "hello");
        assert_eq!(place(), Outcome::AlreadyThere);
        assert_eq!(
            (registry.downloads.get(), registry.extractions.get()),
            (1, 1)
        );

        fs::write(&file, "jello").unwrap();
        assert_eq!(place(), Outcome::Placed(1));
        assert_eq!(fs::read_to_string(&file).unwrap(), "hello");
        assert_eq!(
            (registry.downloads.get(), registry.extractions.get()),
            (1, 2)
        );
        assert_eq!(
            cached(cache.path()),
            ["assets/greeting/sub/hello", "downloads/greeting-1.0.whl"]
        );
    }

    #[test]
    fn a_cut_archive_is_downloaded_anew() {
        let cache = tempfile::tempdir().unwrap();
        fs::create_dir(cache.path().join("downloads")).unwrap();
        fs::write(cache.path().join("downloads/greeting-1.0.whl"), "whole").unwrap();
        let registry = Fake::new("whole archive", "hello");
        assert_eq!(
            place(&asset(ARCHIVE), cache.path(), &registry).unwrap(),
            Outcome::Placed(1)
        );
        assert_eq!(registry.downloads.get(), 1);
    }

    #[test]
    fn wrong_content_is_an_error_and_leaves_nothing() {
        let cache = tempfile::tempdir().unwrap();
        let registry = Fake::new("other archive", "hello");
        let error = place(&asset(ARCHIVE), cache.path(), &registry).unwrap_err();
        let error = format!("{error:#}");
        assert!(
            error.contains(&format!("expected 13 bytes with sha256 {ARCHIVE}")),
            "{error}"
        );
        assert_eq!(cached(cache.path()), Vec::<String>::new());

        let registry = Fake::new("whole archive", "hell");
        let error = place(&asset(ARCHIVE), cache.path(), &registry).unwrap_err();
        assert!(
            format!("{error:#}").starts_with("sub/hello: wrong content"),
            "{error:#}"
        );
        assert_eq!(cached(cache.path()), ["downloads/greeting-1.0.whl"]);
    }
}
