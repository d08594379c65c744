//! Adapters beside a model: loading them, and the pass that they take part in.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use flametune_lm::{AdapterPass, CausalLm};
use flametune_peft::load_adapter;

/// The name that a command's adapter has in the model.
pub(crate) const NAME: &str = "default";

/// The adapter of a command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Adapter")]
pub(crate) struct AdapterArgs {
    /// A folder with adapter_config.json and adapter_model.safetensors, as PEFT writes them
    #[arg(long, value_name = "FOLDER")]
    adapter: Option<PathBuf>,
}

impl AdapterArgs {
    /// Loads the adapter, if one was named.
    pub(crate) fn load(&self, model: &mut CausalLm) -> Result<AdapterPass> {
        match &self.adapter {
            None => Ok(AdapterPass::default()),
            Some(folder) => load(model, folder),
        }
    }
}

/// Loads the adapter of a folder into the model.
pub(crate) fn load(model: &mut CausalLm, folder: &Path) -> Result<AdapterPass> {
    load_adapter(model, NAME, folder)
        .with_context(|| format!("cannot load the adapter {}", folder.display()))?;
    Ok(AdapterPass::one(NAME))
}
