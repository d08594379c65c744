//! `flametune doctor`: what a run's record says about how it went.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use flametune_train::doctor::diagnose;
use flametune_train::record::{History, LOG};

use crate::runs::StoreArgs;
use crate::train::terminal::print;

/// Explain how a run went: plateau, spikes, overfitting, forgetting, nothing trained, with the
/// figures that show it.
///
/// Examples:
///
///   flametune doctor runs/qlora_sft
///   flametune doctor qlora_sft
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Doctor {
    /// The folder of a run, its record.jsonl, or its name or number in the list of runs
    run: String,

    #[command(flatten)]
    store: StoreArgs,
}

impl Doctor {
    pub(crate) fn run(&self) -> Result<()> {
        let log = self.log()?;
        let history = History::read(&log).context("cannot read the record of the run")?;
        print(&diagnose(&history).to_string())
    }

    fn log(&self) -> Result<PathBuf> {
        let path = Path::new(&self.run);
        if path.is_dir() {
            return Ok(path.join(LOG));
        }
        if path.is_file() {
            return Ok(path.to_owned());
        }
        let folder = self.store.folder(&self.run);
        let folder =
            folder.with_context(|| format!("{} is no folder of a run and no run", self.run))?;
        Ok(folder.join(LOG))
    }
}
