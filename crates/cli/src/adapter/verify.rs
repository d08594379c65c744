//! `flametune adapter verify`: whether an adapter is whole, and fits a base.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use flametune_data::Tokenizer;
use flametune_lm::{AdapterPass, CausalLm, Checkpoint};
use flametune_peft::{Passport, adapter_tensors, read_config};

use super::passport;
use crate::text;

/// Check an adapter: tensors finite and of the base's shapes, and its passport.
///
/// Examples:
///
///   flametune adapter verify ./my-adapter --base ./my-model
///   flametune adapter verify ./my-adapter --base ./my-model --write-passport \
///       --probe "The capital of France is"
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Verify {
    /// The adapter's folder
    adapter: PathBuf,

    /// The base: a model folder, a .gguf file, or the name of a fetched model; without it the one
    /// that the adapter names
    #[arg(long, value_name = "MODEL")]
    base: Option<String>,

    /// Write a passport for this base in place of the one that is there
    #[arg(long)]
    write_passport: bool,

    /// A prompt whose largest logits go into the passport; may be given several times
    #[arg(long, value_name = "TEXT", requires = "write_passport")]
    probe: Vec<String>,

    /// A digest of the training data for the passport
    #[arg(long, value_name = "DIGEST", requires = "write_passport")]
    data_digest: Option<String>,

    /// How far the logits of a probe may be off
    #[arg(long, value_name = "X", default_value_t = 1e-2)]
    max_difference: f32,
}

/// Logits of a probe that are kept.
const TOP: usize = 8;

impl Verify {
    pub(super) fn run(&self) -> Result<()> {
        read_config(&self.adapter).context("cannot read the adapter")?;
        let checkpoint = super::base(self.base.as_deref(), &self.adapter)?;
        // Loading compares every tensor's name, type, shape and numbers with what must be there.
        let model = super::load_with_base(&checkpoint, &self.adapter)?;
        let tensors = adapter_tensors(&model, super::NAME)?;
        let numbers: usize = tensors.values().map(|data| data.num_elements()).sum();
        let mut out = io::stdout().lock();
        writeln!(
            out,
            "tensors: {} of {numbers} numbers, all finite, shapes fit the base",
            tensors.len()
        )?;
        let facts = super::facts(&checkpoint, passport::quantization(&model))?;
        if self.write_passport {
            let mut passport = Passport::new(facts);
            passport.data_digest.clone_from(&self.data_digest);
            passport.probes = self.probes(&checkpoint, &model)?;
            passport
                .write(&self.adapter)
                .context("cannot write the passport")?;
            writeln!(out, "passport: written, {} probes", passport.probes.len())?;
            return Ok(());
        }
        let Some(passport) = Passport::read(&self.adapter).context("cannot read the passport")?
        else {
            writeln!(io::stderr(), "warning: the adapter has no passport")?;
            return Ok(());
        };
        passport::print(&mut out, &passport)?;
        passport::compare(&passport, &facts)?;
        writeln!(out, "passport: the base is the one it was made for")?;
        let pass = AdapterPass::one(super::NAME);
        let mut largest = 0f32;
        for probe in &passport.probes {
            largest = largest.max(model.probe_difference(probe, &pass)?);
        }
        if !passport.probes.is_empty() {
            let count = passport.probes.len();
            writeln!(out, "probes: {count}, largest difference {largest:.2e}")?;
        }
        if largest > self.max_difference {
            bail!(
                "the probes' logits are off by {largest:.2e}, the limit is {:.2e}",
                self.max_difference
            );
        }
        Ok(())
    }

    fn probes(
        &self,
        checkpoint: &Checkpoint,
        model: &CausalLm,
    ) -> Result<Vec<flametune_peft::Probe>> {
        if self.probe.is_empty() {
            return Ok(Vec::new());
        }
        let tokenizer: Tokenizer = text::tokenizer(checkpoint)?;
        tokenizer.check_against(model.vocab_size())?;
        let pass = AdapterPass::one(super::NAME);
        let prompts = self.probe.iter();
        prompts
            .map(|prompt| Ok(model.probe(&tokenizer.encode(prompt, true)?, &pass, TOP)?))
            .collect()
    }
}
