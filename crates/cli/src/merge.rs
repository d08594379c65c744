//! `flametune merge`: a model with an adapter in its weights.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use burn::tensor::{DType, Device};
use clap::Args;
use flametune_lm::LoadOptions;
use flametune_peft::{MergeOptions, merge_and_unload};
use indicatif::HumanBytes;

use crate::device::{DtypeName, stored_dtype};
use crate::quantize::{MAX_SHARD_BYTES, copy_companions, folder, same_folder};
use crate::{adapter, model};

/// Write a model with an adapter merged into its weights.
///
/// The base is read as it is stored and not quantized: an adapter that was trained on a 4-bit base
/// is merged into the weights that the 4-bit base was made of.
///
/// Example:
///
///   flametune merge ./my-model runs/qlora/adapter ./my-merged-model
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Merge {
    /// A model folder, a .gguf file, or the name of a fetched model
    model: String,

    /// A folder with adapter_config.json and adapter_model.safetensors
    adapter: PathBuf,

    /// The folder to write
    output: PathBuf,

    /// Number format of the weights; auto keeps 16-bit files as they are
    #[arg(long, value_enum, default_value_t = DtypeName::Auto, value_name = "DTYPE")]
    dtype: DtypeName,
}

impl Merge {
    pub(crate) fn run(&self) -> Result<()> {
        let checkpoint = model::open(&self.model)?;
        if same_folder(folder(&checkpoint), &self.output) {
            bail!(
                "the output folder {} is that of the model",
                self.output.display()
            );
        }
        let dtype = match self.dtype {
            DtypeName::Auto => stored_dtype(&checkpoint)?,
            DtypeName::F32 => DType::F32,
            DtypeName::Bf16 => DType::BF16,
            DtypeName::F16 => DType::F16,
        };
        let options = LoadOptions::new(&Device::flex(), dtype, dtype);
        let mut model = model::load(&checkpoint, &options)?;
        adapter::load(&mut model, &self.adapter)?;
        let merged = merge_and_unload(&mut model, &[adapter::NAME], &MergeOptions::default())?;
        let saved = model
            .save_pretrained(&self.output, checkpoint.config(), MAX_SHARD_BYTES)
            .context("cannot write the model")?;
        let copied = copy_companions(&checkpoint, &self.output)?;
        let mut err = io::stderr().lock();
        writeln!(
            err,
            "{}: {} layers merged, relative error of rounding at most {:.1e}, {} in all",
            self.output.display(),
            merged.modules.len(),
            merged.max_error(),
            HumanBytes(saved.tensor_bytes as u64),
        )?;
        if !copied {
            writeln!(
                err,
                "no tokenizer was written: the model's is in its GGUF header"
            )?;
        }
        Ok(())
    }
}
