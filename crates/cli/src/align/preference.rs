//! Learning from answers that are compared or judged, as a stage.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use flametune_align::preference::{
    AnswerRows, BatchOptions, Preference, PreferenceFeed, PreferenceLoss,
};
use flametune_data::{Dataset, Encoder, Side};
use flametune_lm::{AdapterPass, CausalLm, base_digest};
use flametune_peft::save_adapter;
use flametune_train::checkpoint::TrainerState;
use flametune_train::optim::groups;
use flametune_train::{Best, Trainer, checkpoint};

use super::folder::StageFolder;
use super::log::note;
use super::recipe::{AlignRecipe, PreferenceSection};
use super::setup::{Workbench, dataset, sampler, training};
use super::sft;
use super::stage::train;
use crate::adapter::NAME;

pub(super) fn run(
    recipe: &AlignRecipe,
    bench: &mut Workbench,
    folder: &StageFolder,
    stop: &AtomicBool,
) -> Result<bool> {
    let Some(section) = &recipe.preference else {
        return Ok(true);
    };
    let data = recipe.data_of(&section.own);
    let encoder = bench.encoder(data)?;
    let loss = &section.loss;
    let rows = read(training(recipe, data)?, &encoder, loss)?;
    note(&format!("training data: {}", described(&rows)));
    let held_out = match dataset(recipe, data, Side::Validation)? {
        Some(held_out) => Some(read(held_out, &encoder, loss)?),
        None => None,
    };
    let resumed = folder.resumed()?;
    let mut lm = bench.take()?;
    // After a stage of fine-tuning, its adapter is where this one begins, and the reference.
    let has_sft = recipe.sft.is_some();
    let reference = match has_sft {
        true => AdapterPass::one(sft::ADAPTER),
        false => AdapterPass::default(),
    };
    let begin = super::online::begin_of(recipe, &resumed);
    let pass = bench.adapter(&mut lm, recipe, NAME, begin.as_deref())?;
    let mut steps = sampler(recipe, &rows.lengths(), None)?;
    let config = recipe.train_config(&section.own, steps.steps_per_epoch())?;
    let objective = Preference {
        pass: pass.clone(),
        loss: loss.clone(),
        recompute: recipe.optim.recompute,
    };
    let grouping = groups(recipe.optim.weight_decay, recipe.optim.loraplus_lr_ratio);
    let mut trainer = Trainer::new(lm, objective, config, grouping)?;
    let mut best = Best::default();
    if let Some(at) = &resumed {
        let state: TrainerState = checkpoint::resume(&mut trainer, at)?;
        steps = sampler(recipe, &rows.lengths(), Some(&state.cursor))?;
        best = state.best;
    }
    let options = BatchOptions {
        collator: bench.collator,
        packing: data.packing.then_some(data.max_length),
        reference,
        policy: pass,
    };
    let feed = PreferenceFeed::new(&rows, steps, loss.clone(), options);
    let feed = complete(
        feed,
        recipe,
        section,
        bench,
        folder,
        &trainer,
        held_out.as_ref(),
    )?;
    let save = |lm: &CausalLm, to: &Path| Ok(save_adapter(lm, NAME, to)?);
    let finished = train(recipe, folder, &mut trainer, (feed, best), stop, &save)?;
    bench.put(trainer.into_model());
    Ok(finished)
}

fn read(mut dataset: Dataset, encoder: &Encoder, loss: &PreferenceLoss) -> Result<AnswerRows> {
    let rows = match loss.is_judged() {
        true => AnswerRows::judged(&mut dataset, encoder, loss.name()),
        false => AnswerRows::pairs(&mut dataset, encoder, loss.name()),
    };
    rows.context("cannot read the data")
}

pub(super) fn described(rows: &AnswerRows) -> String {
    let counts = [
        (rows.dropped, "too long and left out"),
        (rows.truncated, "cut"),
        (rows.skipped, "skipped"),
    ];
    let mut text = format!("{} examples", rows.answers.len());
    for (count, what) in counts {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    text
}

/// The feed with validation data, and with the reference's log-probabilities where they are wanted
/// before the first step.
fn complete<'a>(
    mut feed: PreferenceFeed<'a>,
    recipe: &AlignRecipe,
    section: &PreferenceSection,
    bench: &Workbench,
    folder: &StageFolder,
    trainer: &Trainer<Preference>,
    held_out: Option<&AnswerRows>,
) -> Result<PreferenceFeed<'a>> {
    let size = recipe.optim.batch_size;
    if section.precompute_reference {
        folder.fit_options(recipe)?;
        let digest = base_digest(bench.checkpoint.tensors())?;
        let file = folder.reference();
        let mut said = 0;
        feed = feed.precompute(trainer.model(), size, Some((&file, &digest)), &mut |done| {
            if done >= said + 100 {
                said = done;
                note(&format!("reference: {done} sequences"));
            }
        })?;
    }
    match held_out {
        Some(rows) => Ok(feed.evaluate_with(rows, size, trainer.model())?),
        None => Ok(feed),
    }
}
