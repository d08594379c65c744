//! `flametune adapter info`: what an adapter is.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use flametune_peft::{Passport, read_config, report, set_trainable};

/// Show an adapter: configuration, passport, and with a base its modules and parameters.
///
/// Examples:
///
///   flametune adapter info ./my-adapter
///   flametune adapter info ./my-adapter --base ./my-model
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Info {
    /// The adapter's folder
    adapter: PathBuf,

    /// A model folder, a .gguf file, or the name of a fetched model, to list modules and counts
    #[arg(long, value_name = "MODEL")]
    base: Option<String>,
}

impl Info {
    pub(super) fn run(&self) -> Result<()> {
        let config = read_config(&self.adapter).context("cannot read the adapter")?;
        let passport = Passport::read(&self.adapter).context("cannot read the passport")?;
        let mut out = io::stdout().lock();
        writeln!(out, "{:#}", config.to_json())?;
        match passport {
            None => writeln!(out, "passport: none")?,
            Some(passport) => super::passport::print(&mut out, &passport)?,
        }
        if let Some(base) = &self.base {
            let checkpoint = crate::model::open(base)?;
            let mut model = super::load_with_base(&checkpoint, &self.adapter)?;
            // Counts are those of the adapter in training; on disk it is frozen.
            set_trainable(&mut model, &[super::NAME])?;
            writeln!(out, "{}", report(&model))?;
        }
        Ok(())
    }
}
