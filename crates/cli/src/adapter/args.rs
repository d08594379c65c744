//! Adapters beside a model: loading them, and the pass that they take part in.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use flametune_lm::{AdapterPass, CausalLm, Checkpoint};
use flametune_peft::{load_adapter, resume_adapter};

use super::passport;

/// The name that a command's adapter has in the model.
pub(crate) const NAME: &str = "default";

/// The adapter of a command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Adapter")]
pub(crate) struct AdapterArgs {
    /// A folder with adapter_config.json and adapter_model.safetensors, as PEFT writes them
    #[arg(long, value_name = "FOLDER")]
    adapter: Option<PathBuf>,

    /// Use the adapter even if its passport names another base
    #[arg(long, requires = "adapter")]
    ignore_passport: bool,
}

impl AdapterArgs {
    /// Loads the adapter, if one was named, and compares its passport with the base.
    pub(crate) fn load(
        &self,
        model: &mut CausalLm,
        checkpoint: &Checkpoint,
    ) -> Result<AdapterPass> {
        let Some(folder) = &self.adapter else {
            return Ok(AdapterPass::default());
        };
        load_adapter(model, NAME, folder)
            .with_context(|| format!("cannot load the adapter {}", folder.display()))?;
        if !self.ignore_passport {
            passport::check(folder, checkpoint, model)
                .context("use --ignore-passport to generate with it all the same")?;
        }
        Ok(AdapterPass::one(NAME))
    }
}

/// Loads the adapter of a folder into the model, to be trained on.
pub(crate) fn load(model: &mut CausalLm, folder: &Path) -> Result<AdapterPass> {
    resume_adapter(model, NAME, folder)
        .with_context(|| format!("cannot load the adapter {}", folder.display()))?;
    Ok(AdapterPass::one(NAME))
}
