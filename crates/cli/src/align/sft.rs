//! Supervised fine-tuning as a stage.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use flametune_data::Side;
use flametune_lm::CausalLm;
use flametune_peft::save_adapter;
use flametune_train::checkpoint::TrainerState;
use flametune_train::fit::{FitData, Packing, TrainingRows};
use flametune_train::optim::groups;
use flametune_train::{Best, Sft, SftOptions, Trainer, checkpoint};

use super::folder::StageFolder;
use super::recipe::AlignRecipe;
use super::setup::{Workbench, dataset, sampler, training};
use super::stage::train;

/// The adapter of this stage.
pub(super) const ADAPTER: &str = "sft";

pub(super) fn run(
    recipe: &AlignRecipe,
    bench: &mut Workbench,
    folder: &StageFolder,
    stop: &AtomicBool,
) -> Result<bool> {
    let own = recipe.sft.clone().unwrap_or_default().own;
    let data = recipe.data_of(&own);
    let encoder = bench.encoder(data)?;
    let packing = match data.packing {
        true => Packing::To(data.max_length),
        false => Packing::Off,
    };
    let read = |mut dataset| {
        TrainingRows::encode(&mut dataset, &encoder, packing).context("cannot read the data")
    };
    let rows = read(training(recipe, data)?)?;
    let evaluation = match dataset(recipe, data, Side::Validation)? {
        Some(held_out) => read(held_out)?.batches(&bench.collator, recipe.optim.batch_size)?,
        None => Vec::new(),
    };
    let resumed = folder.resumed()?;
    let mut lm = bench.take()?;
    let pass = bench.adapter(&mut lm, recipe, ADAPTER, resumed.as_deref())?;
    let mut steps = sampler(recipe, &rows.lengths(), None)?;
    let config = recipe.train_config(&own, steps.steps_per_epoch())?;
    let objective = Sft {
        pass,
        options: SftOptions {
            recompute: recipe.optim.recompute,
            ..SftOptions::default()
        },
    };
    let grouping = groups(recipe.optim.weight_decay, recipe.optim.loraplus_lr_ratio);
    let mut trainer = Trainer::new(lm, objective, config, grouping)?;
    let mut best = Best::default();
    if let Some(at) = &resumed {
        let state: TrainerState = checkpoint::resume(&mut trainer, at)?;
        steps = sampler(recipe, &rows.lengths(), Some(&state.cursor))?;
        best = state.best;
    }
    let feed = FitData {
        rows: &rows,
        sampler: steps,
        collator: bench.collator,
        evaluation: &evaluation,
    };
    let save = |lm: &CausalLm, to: &Path| Ok(save_adapter(lm, ADAPTER, to)?);
    let finished = train(recipe, folder, &mut trainer, (feed, best), stop, &save)?;
    bench.put(trainer.into_model());
    Ok(finished)
}
