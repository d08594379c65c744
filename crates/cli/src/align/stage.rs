//! One stage: from a trainer and a feed to a result on disk.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use flametune_train::fit::{Ended, Feed, FitHooks, fit};
use flametune_train::{Best, Objective, Trainer};

use super::folder::StageFolder;
use super::log::{Log, print};
use super::recipe::AlignRecipe;

/// Writes what a model has learned into a folder.
pub(super) type Save<'a, M> = &'a dyn Fn(&M, &Path) -> flametune_train::Result<()>;

/// Trains until the stage is over, and writes its result; whether it came to its end.
pub(super) fn train<O: Objective, F: Feed<O>>(
    recipe: &AlignRecipe,
    folder: &StageFolder,
    trainer: &mut Trainer<O>,
    (feed, best): (F, Best),
    stop: &AtomicBool,
    save: Save<'_, O::Model>,
) -> Result<bool> {
    let options = folder.fit_options(recipe)?;
    let mut log = Log::open(&folder.log(), trainer.steps())?;
    let mut hooks = FitHooks {
        save_model: save,
        sample: None,
        stop,
        observer: &mut log,
    };
    let report = fit(trainer, feed, &options, best, &mut hooks)?;
    if report.ended == Ended::Interrupted {
        return Ok(false);
    }
    save(trainer.model(), &folder.result())?;
    let moved = match (report.first_eval, report.last_eval) {
        (Some(first), Some(last)) => format!(", validation loss {first:.4} -> {last:.4}"),
        _ => String::new(),
    };
    print(&format!(
        "{} steps{moved}; the adapter is in {}",
        report.steps,
        folder.result().display()
    ))?;
    Ok(true)
}
