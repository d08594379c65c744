//! `flametune adapter convert`: the same adapter in another number format.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use burn::tensor::DType;
use clap::{Args, ValueEnum};
use flametune_peft::{PASSPORT_FILE, convert_adapter};

/// Write an adapter in another number format.
///
/// Example:
///
///   flametune adapter convert ./my-adapter ./my-adapter-bf16 --dtype bf16
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Convert {
    /// The adapter's folder
    adapter: PathBuf,

    /// The folder to write
    output: PathBuf,

    /// The number format of its tensors
    #[arg(long, value_enum)]
    dtype: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    F32,
    Bf16,
    F16,
}

impl Convert {
    pub(super) fn run(&self) -> Result<()> {
        if let (Ok(a), Ok(b)) = (self.adapter.canonicalize(), self.output.canonicalize())
            && a == b
        {
            bail!("the output folder is that of the adapter");
        }
        let dtype = match self.dtype {
            Format::F32 => DType::F32,
            Format::Bf16 => DType::BF16,
            Format::F16 => DType::F16,
        };
        let change = convert_adapter(&self.adapter, &self.output, dtype)
            .context("cannot convert the adapter")?;
        let passport = self.adapter.join(PASSPORT_FILE);
        if passport.is_file() {
            fs::copy(&passport, self.output.join(PASSPORT_FILE))
                .with_context(|| format!("cannot copy {}", passport.display()))?;
        }
        writeln!(
            io::stderr(),
            "{}: largest relative change of a tensor {change:.2e}",
            self.output.display()
        )?;
        Ok(())
    }
}
