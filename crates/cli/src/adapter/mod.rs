//! `flametune adapter`: what an adapter is, and what becomes of it.

mod args;
mod combine;
mod convert;
mod info;
mod merge;
pub(crate) mod passport;
mod verify;

use std::path::Path;

use anyhow::{Context, Result, bail};
use burn::tensor::{DType, Device};
use clap::{Args, Subcommand};
use flametune_lm::{CausalLm, Checkpoint, LoadOptions, base_digest};
use flametune_peft::{Facts, load_adapter, read_config, sha256_hex};

pub(crate) use args::{AdapterArgs, NAME, load};

use crate::quantize::folder;
use crate::{model, text};

/// Show, check, merge, convert and combine adapters.
#[derive(Debug, Args)]
pub(crate) struct Adapter {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Info(info::Info),
    Verify(verify::Verify),
    Merge(merge::Merge),
    Convert(convert::Convert),
    Combine(combine::Combine),
}

impl Adapter {
    pub(crate) fn run(&self) -> Result<()> {
        match &self.command {
            Command::Info(command) => command.run(),
            Command::Verify(command) => command.run(),
            Command::Merge(command) => command.run(),
            Command::Convert(command) => command.run(),
            Command::Combine(command) => command.run(),
        }
    }
}

/// The base of an adapter: the one named, else the one that its configuration names.
fn base(named: Option<&str>, adapter: &Path) -> Result<Checkpoint> {
    let config = read_config(adapter).context("cannot read the adapter")?;
    let own = config.common().base_model_name_or_path.clone();
    match (named, own) {
        (Some(name), _) => model::open(name),
        (None, Some(name)) => model::open(&name),
        (None, None) => bail!("the adapter does not name its base: give it with --base MODEL"),
    }
}

/// Loads a base in f32, or as it is stored where it is quantized, and an adapter on it.
fn load_with_base(checkpoint: &Checkpoint, adapter: &Path) -> Result<CausalLm> {
    let options = LoadOptions::new(&Device::flex(), DType::F32, DType::F32);
    let mut model = model::load(checkpoint, &options)?;
    load_adapter(&mut model, NAME, adapter).context("cannot load the adapter")?;
    Ok(model)
}

/// What a passport says of a base.
pub(crate) fn facts(checkpoint: &Checkpoint, quantization: Option<String>) -> Result<Facts> {
    let tokenizer = folder(checkpoint).join("tokenizer.json");
    let tokenizer_sha256 = match std::fs::read(&tokenizer) {
        Ok(bytes) => Some(sha256_hex(&bytes)),
        Err(_) => None,
    };
    // A model may lack a tokenizer, or have none that can be read.
    let template = text::tokenizer(checkpoint).ok();
    let template = template
        .as_ref()
        .and_then(|tokenizer| tokenizer.chat_template());
    Ok(Facts {
        base_sha256: base_digest(checkpoint.tensors())?,
        tokenizer_sha256,
        chat_template_sha256: template.map(|text| sha256_hex(text.as_bytes())),
        quantization,
    })
}
