//! Finding a model on disk and loading it, with a progress bar.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use flametune_lm::{CausalLm, Checkpoint, LoadOptions};
use indicatif::{ProgressBar, ProgressStyle};

/// The model that commands use when none is named.
pub(crate) const DEFAULT_MODEL: &str = "smollm2-135m-instruct";

/// The folder of downloaded models: `$FLAMETUNE_CACHE`, else `~/.cache/flametune`.
fn cache_folder() -> Option<PathBuf> {
    match env::var_os("FLAMETUNE_CACHE").filter(|folder| !folder.is_empty()) {
        Some(folder) => Some(folder.into()),
        None => env::var_os("HOME").map(|home| Path::new(&home).join(".cache/flametune")),
    }
}

/// The folder of what came from the hub.
pub(crate) fn hub_folder() -> Option<PathBuf> {
    Some(cache_folder()?.join("hub"))
}

/// Finds the folder or file that `name` stands for: a path, or the name of a fetched model.
pub(crate) fn locate(name: &str) -> Result<PathBuf> {
    let path = Path::new(name);
    if path.exists() {
        return Ok(path.to_owned());
    }
    let plain = !name.is_empty() && !name.contains("..") && !path.is_absolute();
    let mut fetched = Vec::new();
    if let Some(cache) = cache_folder() {
        // `owner/name` of the hub is one folder in the cache.
        let candidates = [
            cache.join("assets").join(name),
            cache.join("hub").join(name.replace('/', "--")),
        ];
        if let Some(found) = candidates
            .into_iter()
            .find(|folder| plain && folder.is_dir())
        {
            return Ok(found);
        }
        for kind in ["assets", "hub"] {
            let Ok(entries) = fs::read_dir(cache.join(kind)) else {
                continue;
            };
            let names = entries.flatten().map(|entry| entry.file_name());
            fetched.extend(names.filter_map(|name| name.into_string().ok()));
        }
    }
    fetched.sort();
    let known = match fetched.as_slice() {
        [] => "none fetched yet".to_owned(),
        names => format!("fetched so far: {}", names.join(", ")),
    };
    bail!(
        "`{name}` is neither a file or folder nor a fetched model ({known}); \
         `cargo xtask fetch` downloads {DEFAULT_MODEL}"
    )
}

/// The file of a fetched data set that a path such as `DATA/FILE` stands for, unless there is a
/// file of that path.
pub(crate) fn fetched_file(path: &str) -> Option<PathBuf> {
    let given = Path::new(path);
    if given.exists() || given.is_absolute() || path.contains("..") {
        return None;
    }
    let fetched = cache_folder()?.join("assets").join(given);
    fetched.is_file().then_some(fetched)
}

/// Opens a model that `name` stands for, without loading its weights.
pub(crate) fn open(name: &str) -> Result<Checkpoint> {
    let path = locate(name)?;
    Checkpoint::open(&path).with_context(|| format!("cannot open the model {name}"))
}

/// Loads the weights, with a bar on the terminal when it takes long.
pub(crate) fn load(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<CausalLm> {
    /// Loads shorter than this leave no trace on the terminal.
    const QUIET_MS: u128 = 300;
    let started = Instant::now();
    let bar = ProgressBar::hidden();
    let model = CausalLm::load(checkpoint, options, &mut |progress| {
        if bar.is_hidden() && started.elapsed().as_millis() > QUIET_MS {
            bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
            bar.set_style(style());
        }
        bar.set_length(progress.total_bytes as u64);
        bar.set_position(progress.bytes as u64);
    })
    .context("cannot load the model")?;
    bar.finish_and_clear();
    Ok(model)
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("loading {bar:40} {bytes}/{total_bytes} ({eta})")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}
