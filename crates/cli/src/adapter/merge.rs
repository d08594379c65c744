//! `flametune adapter merge`: an adapter into the weights of its base.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use burn::tensor::{DType, Device};
use clap::Args;
use flametune_lm::{CausalLm, LoadOptions};
use flametune_peft::{MergeOptions, Passport, SlotModule, Slots, load_adapter};
use flametune_quant::BaseLinear;

use super::passport;
use crate::device::stored_dtype;
use crate::model;
use crate::quantize::{MAX_SHARD_BYTES, copy_companions, folder, same_folder};

/// Write a model with an adapter in its weights.
///
/// A quantized base is dequantized first, and with --requantize quantized again as it was. What storing
/// the weights changes is measured and shown, and so is how far the logits move, on the probes of the
/// adapter's passport or on scattered ids.
///
/// Examples:
///
///   flametune adapter merge ./my-adapter ./merged --base ./my-model
///   flametune adapter merge ./my-adapter ./merged --base ./my-model-nf4 --requantize --max-change 0.1
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Merge {
    /// The adapter's folder
    adapter: PathBuf,

    /// The folder to write
    output: PathBuf,

    /// The base: a model folder, a .gguf file, or the name of a fetched model; without it the one
    /// that the adapter names
    #[arg(long, value_name = "MODEL")]
    base: Option<String>,

    /// Quantize the layers of a quantized base again
    #[arg(long)]
    requantize: bool,

    /// The largest relative change of a merged weight by the format it is stored in, rounding or
    /// quantization; nothing is written above it
    #[arg(long, value_name = "X", default_value_t = 0.01)]
    max_change: f64,

    /// The largest mean divergence of the logits, in nats; nothing is written above it
    #[arg(long, value_name = "X")]
    max_kl: Option<f64>,

    /// Merge even if the adapter's passport names another base
    #[arg(long)]
    ignore_passport: bool,
}

impl Merge {
    pub(super) fn run(&self) -> Result<()> {
        let checkpoint = super::base(self.base.as_deref(), &self.adapter)?;
        if same_folder(folder(&checkpoint), &self.output) {
            bail!("the output folder is that of the base");
        }
        let options = LoadOptions::new(&Device::flex(), stored_dtype(&checkpoint)?, DType::F32);
        let mut model = model::load(&checkpoint, &options)?;
        load_adapter(&mut model, super::NAME, &self.adapter).context("cannot load the adapter")?;
        if !self.ignore_passport {
            passport::check(&self.adapter, &checkpoint, &model)
                .context("use --ignore-passport to merge it all the same")?;
        }
        if self.requantize && !is_quantized(&mut model) {
            bail!("--requantize needs a quantized base");
        }
        let options = MergeOptions {
            max_error: Some(self.max_change),
            max_kl: self.max_kl,
            requantize: self.requantize,
        };
        let prompts = self.prompts(&model)?;
        let report = model
            .merge_and_unload(&[super::NAME], &options, &prompts)
            .context("cannot merge the adapter within --max-change and --max-kl")?;
        writeln!(io::stdout(), "{report}")?;
        let saved = model
            .save_pretrained(&self.output, checkpoint.config(), MAX_SHARD_BYTES)
            .context("cannot write the model")?;
        copy_companions(&checkpoint, &self.output)?;
        writeln!(
            io::stderr(),
            "{}: {} bytes of weights",
            self.output.display(),
            saved.tensor_bytes
        )?;
        Ok(())
    }

    /// What the logits are compared on: the probes of the adapter's passport, else scattered ids.
    fn prompts(&self, model: &CausalLm) -> Result<Vec<Vec<u32>>> {
        let passport = Passport::read(&self.adapter).context("cannot read the passport")?;
        let probes = passport.into_iter().flat_map(|passport| passport.probes);
        let probes: Vec<Vec<u32>> = probes.map(|probe| probe.input_ids).collect();
        Ok(match probes.as_slice() {
            [] => model.scattered_prompts(2, 16),
            _ => probes,
        })
    }
}

/// Whether some layer is quantized.
fn is_quantized(model: &mut CausalLm) -> bool {
    let mut found = false;
    model.visit_slots(&mut |slot| {
        if let SlotModule::Linear(linear) = slot.module {
            found |= matches!(linear.base.get(), BaseLinear::Quant(_));
        }
    });
    found
}
