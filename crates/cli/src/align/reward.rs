//! Training a reward model, as a stage.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use burn::module::Module;
use flametune_align::ScalarHead;
use flametune_align::preference::AnswerRows;
use flametune_align::reward_model::{
    RewardFeed, RewardModel, RewardReport, RewardTraining, commonest_label_accuracy,
    longer_answer_accuracy,
};
use flametune_data::{Dataset, Side};
use flametune_peft::save_adapter;
use flametune_train::checkpoint::TrainerState;
use flametune_train::optim::groups;
use flametune_train::{Best, Trainer, checkpoint};

use super::folder::StageFolder;
use super::log::{note, print};
use super::preference::described;
use super::recipe::AlignRecipe;
use super::setup::{Workbench, dataset, sampler, training};
use super::stage::train;

/// The adapter of this stage.
pub(super) const ADAPTER: &str = "reward";

pub(super) fn run(
    recipe: &AlignRecipe,
    bench: &mut Workbench,
    folder: &StageFolder,
    stop: &AtomicBool,
) -> Result<bool> {
    let section = recipe.reward_model.clone().unwrap_or_default();
    let data = recipe.data_of(&section.own);
    let encoder = bench.encoder(data)?;
    let read = |mut dataset: Dataset| {
        let rows = match section.process {
            true => AnswerRows::steps(&mut dataset, &encoder, "a process reward model"),
            false => AnswerRows::pairs(&mut dataset, &encoder, "a reward model"),
        };
        rows.context("cannot read the data")
    };
    let rows = read(training(recipe, data)?)?;
    note(&format!("training data: {}", described(&rows)));
    let held_out = match dataset(recipe, data, Side::Validation)? {
        Some(held_out) => Some(read(held_out)?),
        None => None,
    };
    let resumed = folder.resumed()?;
    let mut lm = bench.take()?;
    let pass = bench.adapter(&mut lm, recipe, ADAPTER, resumed.as_deref())?;
    let score = match &resumed {
        Some(at) => ScalarHead::load(at, bench.d_model, Some(&bench.digest), &lm.device())?,
        None => ScalarHead::zeros(bench.d_model, &lm.device()),
    };
    let mut steps = sampler(recipe, &rows.lengths(), None)?;
    let config = recipe.train_config(&section.own, steps.steps_per_epoch())?;
    let objective = RewardTraining {
        pass: pass.clone(),
        options: section.loss,
        recompute: recipe.optim.recompute,
    };
    let grouping = groups(recipe.optim.weight_decay, recipe.optim.loraplus_lr_ratio);
    let mut trainer = Trainer::new(RewardModel { lm, score }, objective, config, grouping)?;
    let mut best = Best::default();
    if let Some(at) = &resumed {
        let state: TrainerState = checkpoint::resume(&mut trainer, at)?;
        steps = sampler(recipe, &rows.lengths(), Some(&state.cursor))?;
        best = state.best;
    }
    let mut feed = RewardFeed::new(&rows, steps, bench.collator)?;
    if let Some(held_out) = &held_out {
        feed = feed.evaluate_with(held_out, recipe.optim.batch_size)?;
    }
    let digest = bench.digest.clone();
    let save = |model: &RewardModel, to: &Path| {
        save_adapter(&model.lm, ADAPTER, to)?;
        model.score.save(to, Some(&digest))?;
        Ok(())
    };
    let finished = train(recipe, folder, &mut trainer, (feed, best), stop, &save)?;
    let model = trainer.into_model();
    if let (Some(held_out), true) = (&held_out, finished) {
        let size = recipe.optim.batch_size;
        let plain = model.valid();
        let report = RewardReport::measure(&plain, held_out, &pass, size, &bench.collator)?;
        let (what, baseline) = match section.process {
            true => (
                "steps",
                ("commonest label", commonest_label_accuracy(held_out)?),
            ),
            false => (
                "pairs",
                ("longer answer", longer_answer_accuracy(held_out)?),
            ),
        };
        print(&format!(
            "held-out {what}: {}; accuracy {:.3} (95 %: {:.3} to {:.3}), of the {} {:.3}; \
             calibration error {:.3}",
            report.items,
            report.accuracy,
            report.interval.0,
            report.interval.1,
            baseline.0,
            baseline.1,
            report.calibration_error
        ))?;
    }
    bench.put(model.lm);
    Ok(finished)
}
