//! A run of a classifier: an encoder with a head, on texts with classes.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};
use burn::module::Module;
use flametune_data::{BatchSampler, ClassifiedBatch, Collator, SamplerCursor, Side};
use flametune_lm::{AdapterPass, BertModel, Checkpoint};
use flametune_peft::{TrainableReport, inject, load_adapter, report, set_trainable};
use flametune_train::classify::{
    ClassScores, Classification, ClassifiedData, ClassifiedRows, Scores, add_head, score,
};
use flametune_train::fit::{Ended, FitHooks, FitReport, fit};
use flametune_train::record::{Evaluation, Event, RunRecord};
use flametune_train::{Best, Trainer, checkpoint, optim};

use super::folder::RunFolder;
use super::recorder::{self, Facts};
use super::setup::{self, dataset, encoder, sampler_options, text_side};
use super::terminal::{note, print, warn};
use crate::adapter::passport;
use crate::recipe::{ClassifierSection, Recipe, peft_config};
use crate::{adapter, model};

/// Texts of a batch that is only scored.
const EVAL_BATCH: usize = 32;

/// Texts are padded to a multiple of this.
const MULTIPLE: usize = 8;

/// The name of the evaluation that the scores of the classes belong to.
const CLASSES: &str = "classes";

/// Trains a classifier as a recipe says.
pub(super) fn run(
    name: &str,
    recipe: &Recipe,
    section: &ClassifierSection,
    folder: &RunFolder,
    stop: &AtomicBool,
) -> Result<()> {
    let mut prepared = Prepared::new(name, recipe, section, folder)?;
    let digest = prepared.rows.digest();
    folder.begin(recipe, &digest)?;
    let passport = passport::issue(&prepared.checkpoint, &prepared.model, &digest)?;
    let config = recipe.train_config(prepared.sampler.steps_per_epoch())?;
    let grouping = optim::groups(recipe.optim.weight_decay, recipe.optim.loraplus_lr_ratio);
    let objective = Classification {
        pass: prepared.pass.clone(),
        label_smoothing: recipe.optim.label_smoothing,
    };
    let mut trainer = Trainer::new(prepared.model, objective, config, grouping)?;
    trainer.allocate_ranks(adapter::NAME)?;
    if recipe.optim.paged_states {
        trainer.page_states(&folder.checkpoints())?;
    }
    let (mut best, mut resumed) = (Best::default(), None);
    if let Some(at) = folder.resumed() {
        let state = checkpoint::resume::<_, SamplerCursor>(&mut trainer, at)?;
        let lengths = prepared.rows.lengths();
        prepared.sampler = BatchSampler::resume(&lengths, sampler_options(recipe), &state.cursor)?;
        (best, resumed) = (state.best, Some(state.step));
    }
    let facts = Facts {
        architecture: super::architecture(&prepared.checkpoint),
        trained: &prepared.report,
        digest,
        examples: prepared.rows.texts.len(),
        max_steps: config.max_steps,
    };
    let description = recorder::describe(name, recipe, folder, facts)?;
    let mut record = recorder::open(folder, resumed, description)?;
    let an_epoch = prepared.sampler.steps_per_epoch();
    note(&format!("{} steps, {an_epoch} an epoch", config.max_steps));

    // The head is a part of the adapter.
    let save = |model: &BertModel, to: &Path| super::save(model, &passport, to);
    let mut hooks = FitHooks {
        save_model: &save,
        sample: None,
        stop,
        observer: &mut record,
    };
    let data = ClassifiedData {
        rows: &prepared.rows,
        sampler: prepared.sampler,
        collator: prepared.collator,
        evaluation: &prepared.evaluation,
    };
    let fitted = fit(
        &mut trainer,
        data,
        &folder.fit_options(recipe),
        best,
        &mut hooks,
    );
    let fitted = recorder::or_failed(&mut record, trainer.steps(), fitted)?;
    if fitted.ended == Ended::Interrupted {
        return super::interrupted(fitted.steps, config.max_steps);
    }
    let scores = score(
        &trainer.model().valid(),
        &prepared.pass,
        &prepared.evaluation,
    )?;
    if scores.rows() > 0 {
        note_scores(&mut record, &fitted, &scores)?;
    }
    super::finish(recipe, folder, trainer.model(), &save, &fitted, &mut record)?;
    if scores.rows() > 0 {
        print(&table(section, &scores))?;
    }
    Ok(())
}

/// Writes down what shows only in all texts together.
fn note_scores(record: &mut RunRecord, fitted: &FitReport, scores: &Scores) -> Result<()> {
    let metric = |name: &str, value: f64| (name.to_owned(), value);
    record.event(Event::Eval(Evaluation {
        name: CLASSES.to_owned(),
        step: fitted.steps,
        loss: fitted.last_eval.unwrap_or(f64::NAN),
        supervised_tokens: scores.rows(),
        seconds: 0.0,
        metrics: [
            metric("accuracy", scores.accuracy()),
            metric("macro_f1", scores.macro_f1()),
            metric("majority", scores.majority()),
        ]
        .into(),
    }))?;
    Ok(())
}

/// What a run trains, on what.
struct Prepared {
    checkpoint: Checkpoint,
    rows: ClassifiedRows,
    sampler: BatchSampler,
    collator: Collator,
    evaluation: Vec<ClassifiedBatch>,
    model: BertModel,
    pass: AdapterPass,
    report: TrainableReport,
}

impl Prepared {
    fn new(
        name: &str,
        recipe: &Recipe,
        section: &ClassifierSection,
        folder: &RunFolder,
    ) -> Result<Self> {
        let checkpoint = model::open(&recipe.model.path)?;
        let text = text_side(recipe, &checkpoint)?;
        let encoder = encoder(&recipe.data, &text)?;
        let classes = section.classes.len();
        let read = |side: Side, what: &str| -> Result<ClassifiedRows> {
            let mut dataset = dataset(recipe, side)?;
            let rows = ClassifiedRows::encode(&mut dataset, &encoder, classes);
            let rows = rows.with_context(|| format!("cannot read the {what} data"))?;
            if rows.texts.is_empty() {
                bail!("there are no {what} data: no text is left");
            }
            tell(what, section, &rows);
            Ok(rows)
        };
        let rows = read(Side::Train, "training")?;
        let collator = Collator::for_tokenizer(&text.tokenizer, MULTIPLE)?;
        let evaluation = match recipe.has_validation() {
            true => read(Side::Validation, "validation")?.batches(&collator, EVAL_BATCH)?,
            false => Vec::new(),
        };
        let sampler = BatchSampler::new(&rows.lengths(), sampler_options(recipe))
            .context("cannot make batches of the training data")?;
        let options = setup::load_options(recipe, &checkpoint)?;
        let mut model = BertModel::from_checkpoint(&checkpoint, &options, &mut |_| {}).context(
            "cannot load the model: a classifier is trained on an encoder, such as BERT",
        )?;
        check(recipe, &model)?;
        text.tokenizer
            .check_against(model.bert.config().vocab_size)?;
        add_head(&mut model, classes, recipe.run.seed)?;
        let pass = match folder.resumed() {
            Some(at) => go_on(&mut model, at, &checkpoint)?,
            None => {
                let steps = recipe.train_config(sampler.steps_per_epoch())?.max_steps;
                begin(name, recipe, &mut model, steps)?
            }
        };
        let report = report(&model);
        note(&format!(
            "trained: {} of {} parameters ({:.3} %)",
            report.trainable,
            report.total,
            report.percent()
        ));
        Ok(Self {
            checkpoint,
            rows,
            sampler,
            collator,
            evaluation,
            model,
            pass,
            report,
        })
    }
}

fn check(recipe: &Recipe, model: &BertModel) -> Result<()> {
    let length = recipe.data.max_length;
    let limit = model.bert.config().max_position_embeddings;
    if length > limit {
        bail!("data.max_length is {length}, and the model's context {limit} tokens");
    }
    Ok(())
}

/// Says how many texts of which class there are.
fn tell(what: &str, section: &ClassifierSection, rows: &ClassifiedRows) {
    let counts = rows.counts(section.classes.len());
    let counts: Vec<String> = section
        .classes
        .iter()
        .zip(counts)
        .map(|(class, count)| format!("{count} {class}"))
        .collect();
    note(&format!(
        "{what} data: {} texts, {}",
        rows.texts.len(),
        counts.join(", ")
    ));
    for (count, what) in [
        (rows.skipped, "cannot be used and were skipped"),
        (rows.dropped, "were too long and were left out"),
        (rows.truncated, "were too long and were cut"),
    ] {
        if count > 0 {
            warn(&format!("{count} records {what}"));
        }
    }
}

/// Puts the adapter of a checkpoint in place.
fn go_on(model: &mut BertModel, at: &Path, base: &Checkpoint) -> Result<AdapterPass> {
    load_adapter(model, adapter::NAME, at)
        .map_err(anyhow::Error::from)
        .and_then(|()| passport::check(at, base, model))
        .with_context(|| format!("cannot go on from {}", at.display()))?;
    set_trainable(model, &[adapter::NAME])?;
    Ok(AdapterPass::one(adapter::NAME))
}

/// Puts a new adapter in place, for a run of so many steps.
fn begin(name: &str, recipe: &Recipe, model: &mut BertModel, steps: usize) -> Result<AdapterPass> {
    let Some(section) = &recipe.adapter else {
        bail!("[classifier] needs an [adapter]");
    };
    let mut config = peft_config(section, recipe.task_type(), name, Some(steps))?;
    let common = config.common_mut();
    common.inference_mode = false;
    common
        .base_model_name_or_path
        .get_or_insert_with(|| recipe.model.path.clone());
    inject(model, adapter::NAME, &config, recipe.run.seed)?;
    Ok(AdapterPass::one(adapter::NAME))
}

/// Precision, recall and F1 of every class after the last step.
fn table(section: &ClassifierSection, scores: &Scores) -> String {
    let names = section.classes.iter();
    let width = names.map(|name| name.chars().count()).max();
    let width = width.unwrap_or(0).max("class".len());
    let head = format!(
        "\n## Classes\n\n{:width$}  precision  recall      F1    rows",
        "class"
    );
    let row = |(name, class): (&String, ClassScores)| {
        format!(
            "{name:width$}     {:.4}  {:.4}  {:.4}  {:>6}",
            class.precision, class.recall, class.f1, class.support
        )
    };
    let rows: Vec<String> = section
        .classes
        .iter()
        .zip(scores.classes())
        .map(row)
        .collect();
    format!("{head}\n{}\n\n{scores}", rows.join("\n"))
}
