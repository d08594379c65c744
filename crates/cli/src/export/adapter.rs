//! An adapter folder as vLLM loads them.

use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use burn::tensor::DType;
use flametune_lm::{AdapterPass, CausalLm, Checkpoint};
use flametune_peft::{BiasMode, InitLoraWeights, LoraConfig, PeftConfig, Slots, save_adapter};

use super::probes::{compare, logps};
use super::staged::StagedFolder;
use crate::adapter::{NAME, load};
use crate::model;

/// The LoRA of the model, in a form that other servers know.
pub(super) fn plain_lora(model: &CausalLm) -> Result<LoraConfig> {
    let config = model.adapters().config(NAME)?;
    let PeftConfig::Lora(config) = config.as_ref() else {
        bail!(
            "other servers load LoRA alone, and the adapter is of type {}; merge it with --to hf or \
             --to gguf",
            config.peft_type()
        );
    };
    let unknown = [
        ("use_dora", config.use_dora),
        // Their factors stand for a difference to those they began with.
        (
            "init_lora_weights of the base's own",
            matches!(
                config.init_lora_weights,
                InitLoraWeights::Pissa | InitLoraWeights::PissaNiter(_) | InitLoraWeights::Olora
            ),
        ),
        ("lora_bias", config.lora_bias),
        ("bias", config.bias != BiasMode::None),
        (
            "modules_to_save",
            config
                .modules_to_save
                .as_ref()
                .is_some_and(|m| !m.is_empty()),
        ),
        (
            "trainable_token_indices",
            config.trainable_token_indices.is_some(),
        ),
    ];
    if let Some((field, _)) = unknown.iter().find(|(_, active)| *active) {
        bail!("other servers know no {field} of an adapter; merge it with --to hf or --to gguf");
    }
    Ok(config.clone())
}

/// Writes the adapter anew, from what was loaded.
pub(super) fn export(
    model: &CausalLm,
    pass: &AdapterPass,
    checkpoint: &Checkpoint,
    output: &Path,
    max_kl: f64,
) -> Result<()> {
    /// The largest of `--max-lora-rank`.
    const LARGEST_RANK: usize = 512;
    let config = plain_lora(model)?;
    let largest = config.rank_pattern.values().copied().max().unwrap_or(0);
    let largest = largest.max(config.r);
    if largest > LARGEST_RANK {
        bail!("vLLM loads ranks up to {LARGEST_RANK}, the adapter has {largest}");
    }
    let expected = logps(model, pass)?;
    let staged = StagedFolder::new(output)?;
    save_adapter(model, NAME, staged.path()).context("cannot write the adapter")?;

    let mut again = model::load(checkpoint, &super::options(DType::F32))?;
    let pass = load(&mut again, staged.path()).context("cannot read back what was written")?;
    let kl = compare(expected, logps(&again, &pass)?, max_kl)?;
    staged.publish()?;
    let mut err = io::stderr().lock();
    writeln!(
        err,
        "{}: rank {largest}, divergence {kl:.1e} nats a token; start vLLM with --enable-lora \
         --max-lora-rank {}",
        output.display(),
        vllm_rank(largest)
    )?;
    Ok(())
}

/// The smallest rank that vLLM sets aside memory for and that is not below `r`.
fn vllm_rank(r: usize) -> usize {
    const RANKS: [usize; 9] = [1, 8, 16, 32, 64, 128, 256, 320, 512];
    RANKS.into_iter().find(|&rank| rank >= r).unwrap_or(r)
}
