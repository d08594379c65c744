//! Our side of the races about adapters on a loaded model, and of its scores.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use burn::tensor::{DType, Device, Tensor};
use flametune_infer::Scorer;
use flametune_lm::{AdapterPass, AdapterSelection, CausalLm, Checkpoint, LoadOptions, TokenBatch};
use flametune_peft::{
    InitLoraWeights, LnTuningConfig, LoraConfig, PeftConfig, TargetModules, inject, load_adapter,
    remove, save_adapter,
};

use crate::protocol::{AdapterKind, NewAdapter, Rows, Timed};

/// What a new adapter is called in the model that it is made on.
const NAME: &str = "default";

/// An adapter that comes and goes.
const ONE_MORE: &str = "one more";

/// All linear layers of the blocks.
const LINEAR: [&str; 7] = [
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
];

/// Writes a new adapter, as PEFT's files.
pub(crate) fn write_adapter(model: &Path, folder: &Path, adapter: NewAdapter) -> Result<()> {
    let options = LoadOptions::new(&Device::flex(), DType::BF16, DType::F32);
    let mut model = CausalLm::load(&Checkpoint::open(model)?, &options, &mut |_| {})?;
    inject(&mut model, NAME, &config(adapter), adapter.seed)?;
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    Ok(save_adapter(&model, NAME, folder)?)
}

fn config(adapter: NewAdapter) -> PeftConfig {
    let lora = LoraConfig {
        r: adapter.rank,
        lora_alpha: 32.0,
        target_modules: Some(TargetModules::list(LINEAR)),
        ..LoraConfig::default()
    };
    match adapter.kind {
        AdapterKind::Lora => lora.into(),
        AdapterKind::RandomLora => LoraConfig {
            init_lora_weights: InitLoraWeights::Random,
            ..lora
        }
        .into(),
        AdapterKind::Dora => LoraConfig {
            use_dora: true,
            ..lora
        }
        .into(),
        AdapterKind::FirstNorm => LnTuningConfig {
            target_modules: Some(TargetModules::list(["layers.0.input_layernorm"])),
            ..LnTuningConfig::default()
        }
        .into(),
    }
}

/// Puts adapters on a model, in place of those with `names`.
pub(crate) fn put_on(
    model: &mut CausalLm,
    names: &mut Vec<String>,
    folders: &[PathBuf],
) -> Result<()> {
    for name in names.drain(..) {
        remove(model, &name)?;
    }
    for (index, folder) in folders.iter().enumerate() {
        let name = index.to_string();
        load_adapter(model, &name, folder)?;
        names.push(name);
    }
    Ok(())
}

/// Takes a token in again and again, each time with the next adapter.
pub(crate) fn switch(
    model: &CausalLm,
    names: &[String],
    token: u32,
    passes: usize,
) -> Result<Timed> {
    let rows = [vec![token]];
    let begin = Instant::now();
    let mut sample = Vec::with_capacity(passes);
    for name in names.iter().cycle().take(passes) {
        sample.extend(greatest(model, &rows, &AdapterPass::one(name.as_str()))?);
    }
    Ok(Timed {
        seconds: begin.elapsed().as_secs_f64(),
        sample,
    })
}

/// Takes rows in at once, each with the next adapter.
pub(crate) fn mixed(model: &CausalLm, names: &[String], Rows { rows }: &Rows) -> Result<Timed> {
    let names = names.iter().cycle().take(rows.len()).cloned().map(Some);
    let pass = AdapterPass::new(AdapterSelection::PerRow(names.collect()));
    let begin = Instant::now();
    let sample = greatest(model, rows, &pass)?;
    Ok(Timed {
        seconds: begin.elapsed().as_secs_f64(),
        sample,
    })
}

/// The greatest logit of each row's next token.
fn greatest(model: &CausalLm, rows: &[Vec<u32>], pass: &AdapterPass) -> Result<Vec<f32>> {
    let batch = TokenBatch::from_rows(rows)?;
    let hidden = model.forward(&batch, None, pass)?;
    let last = hidden.narrow(1, batch.seq() - 1, 1);
    let logits: Tensor<3> = model.logits(last, pass);
    let logits = logits.into_data();
    let most = |row: &[f32]| row.iter().fold(f32::NEG_INFINITY, |most, &x| most.max(x));
    let values = logits.as_slice::<f32>()?;
    Ok(values.chunks_exact(model.vocab_size()).map(most).collect())
}

/// Writes the first adapter.
pub(crate) fn save_first(model: &CausalLm, names: &[String], folder: &Path) -> Result<Timed> {
    let name = names.first().context("there is no adapter")?;
    let begin = Instant::now();
    save_adapter(model, name, folder)?;
    Ok(Timed {
        seconds: begin.elapsed().as_secs_f64(),
        sample: Vec::new(),
    })
}

/// Loads an adapter, and takes it off again when it has been timed.
pub(crate) fn load_one_more(model: &mut CausalLm, folder: &Path) -> Result<Timed> {
    let begin = Instant::now();
    load_adapter(model, ONE_MORE, folder)?;
    let seconds = begin.elapsed().as_secs_f64();
    remove(model, ONE_MORE)?;
    Ok(Timed {
        seconds,
        sample: Vec::new(),
    })
}

/// Minus the logarithm of the likelihood of all tokens of a row but the first.
pub(crate) fn score(model: &CausalLm, Rows { rows }: &Rows) -> Result<Vec<f64>> {
    let scorer = Scorer::new(model);
    let pairs: Vec<_> = rows
        .iter()
        .map(|row| row.split_at(1.min(row.len())))
        .collect();
    let scores = scorer.score(&pairs)?;
    Ok(scores.iter().map(|score| -score.total()).collect())
}
