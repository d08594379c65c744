//! A Hugging Face folder.

use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use flametune_lm::{AdapterPass, CausalLm, Checkpoint};

use super::probes::{compare, logps};
use super::staged::StagedFolder;
use crate::device::stored_dtype;
use crate::model;
use crate::quantize::{MAX_SHARD_BYTES, copy_companions, folder, same_folder};

/// Writes the model in the number format of its base.
pub(super) fn export(
    model: &CausalLm,
    checkpoint: &Checkpoint,
    output: &Path,
    max_kl: f64,
) -> Result<()> {
    if same_folder(folder(checkpoint), output) {
        bail!("the output folder is that of the base");
    }
    let expected = logps(model, &AdapterPass::default())?;
    let staged = StagedFolder::new(output)?;
    let saved = model
        .save_pretrained(staged.path(), checkpoint.config(), MAX_SHARD_BYTES)
        .context("cannot write the model")?;
    copy_companions(checkpoint, staged.path())?;

    let written = Checkpoint::open(staged.path()).context("cannot read back what was written")?;
    let again = model::load(&written, &super::options(stored_dtype(&written)?))?;
    let kl = compare(expected, logps(&again, &AdapterPass::default())?, max_kl)?;
    drop((written, again));
    staged.publish()?;
    let mut err = io::stderr().lock();
    writeln!(
        err,
        "{}: {} bytes of weights, divergence {kl:.1e} nats a token",
        output.display(),
        saved.tensor_bytes
    )?;
    Ok(())
}
