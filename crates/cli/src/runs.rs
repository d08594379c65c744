//! `flametune runs`: what was trained, and what came of it.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use flametune_train::record::RunStore;

use crate::train::recorder::STORE;
use crate::train::terminal::print;

/// Look at past and present runs.
///
/// Runs are listed in `runs.db`, beside the folders of the runs.
#[derive(Debug, Subcommand)]
pub(crate) enum Runs {
    /// List all runs, the latest first
    List(List),
    /// Show a run in full: settings, figures, environment
    Show(Show),
    /// Set runs side by side: the settings that differ, and the figures of each
    Compare(Compare),
}

/// Where runs are listed.
#[derive(Debug, Args)]
pub(crate) struct StoreArgs {
    /// The folder that holds the runs' folders and runs.db, or that file
    #[arg(long, default_value = "runs", value_name = "FOLDER")]
    store: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// A run by name or number; of several with a name, the latest
    run: String,

    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Debug, Args)]
pub(crate) struct Compare {
    /// Runs by name or number
    #[arg(required = true, num_args = 2.., value_name = "RUN")]
    runs: Vec<String>,

    #[command(flatten)]
    store: StoreArgs,
}

impl StoreArgs {
    /// The file.
    fn path(&self) -> PathBuf {
        if self.store.is_dir() {
            self.store.join(STORE)
        } else {
            self.store.clone()
        }
    }

    /// Opens the store, which must be there.
    pub(crate) fn open(&self) -> Result<RunStore> {
        let path = self.path();
        if !path.is_file() {
            bail!(
                "{} holds no runs yet; another folder is given with --store",
                path.display()
            );
        }
        Ok(RunStore::open(&path)?)
    }

    /// The folder of a run, where the store knows it.
    pub(crate) fn folder(&self, run: &str) -> Result<PathBuf> {
        let details = self.open()?.show(run)?;
        Ok(PathBuf::from(details.description.folder))
    }
}

impl Runs {
    pub(crate) fn run(&self) -> Result<()> {
        match self {
            Self::List(list) => print(&list.store.open()?.list()?.to_string()),
            Self::Show(show) => print(&show.store.open()?.show(&show.run)?.to_string()),
            Self::Compare(compare) => {
                let runs: Vec<&str> = compare.runs.iter().map(String::as_str).collect();
                print(&compare.store.open()?.compare(&runs)?.to_string())
            }
        }
    }
}
