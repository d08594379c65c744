//! `flametune train`: from a recipe to a fine-tuned model.

mod classify;
pub(crate) mod folder;
mod lenient;
mod outcome;
pub(crate) mod recorder;
pub(crate) mod sampling;
pub(crate) mod setup;
pub(crate) mod terminal;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};
use burn::module::Module;
use burn::tensor::DType;
use clap::Args;
use flametune_lm::{CausalLm, Checkpoint};
use flametune_peft::{Passport, Slots, save_adapter};
use flametune_train::fit::{DataDigest, Ended, FitData, FitHooks, FitReport, fit};
use flametune_train::record::{Event, RunRecord, ZeroTensors};
use flametune_train::{Best, LossScaling, Sft, Trainer, checkpoint};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use self::folder::{Begin, RunFolder};
use self::recorder::Facts;
use self::sampling::Sampling;
use self::setup::Prepared;
use self::terminal::{note, print};
use crate::adapter::passport::issue;
use crate::quantize::{MAX_SHARD_BYTES, copy_companions};
use crate::recipe::{self, BUNDLED, Recipe, ResultOf};
use crate::{adapter, model};

/// Fine-tune a model as a recipe says.
///
/// Examples:
///
///   flametune train qlora_sft
///   flametune train my-recipe.toml --set optim.learning_rate=1e-4 --set run.output=runs/second
///   flametune train my-recipe.toml --resume
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Train {
    /// A recipe (TOML), or the name of one that comes with the command: lora_sft, qlora_sft,
    /// dora_sft, full_sft, prompt_tuning, classifier, domain_chatbot
    recipe: String,

    /// Change a key of the recipe, such as optim.learning_rate=1e-4; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Go on with the run in the output folder, from its last checkpoint
    #[arg(long, conflicts_with = "overwrite")]
    resume: bool,

    /// Delete the run in the output folder and begin anew
    #[arg(long)]
    overwrite: bool,

    /// Print the recipe with all defaults and overrides, and do nothing
    #[arg(long)]
    show: bool,
}

/// The text of a recipe and its name in messages.
pub(crate) fn recipe_text(recipe: &str) -> Result<(String, String)> {
    let path = Path::new(recipe);
    if path.exists() {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read the recipe {recipe}"))?;
        return Ok((recipe.to_owned(), text));
    }
    match BUNDLED.iter().find(|(name, _)| *name == recipe) {
        Some((name, text)) => Ok(((*name).to_owned(), (*text).to_owned())),
        None => {
            let names: Vec<&str> = BUNDLED.iter().map(|(name, _)| *name).collect();
            bail!(
                "there is no recipe {recipe}: neither a file nor one of {}",
                names.join(", ")
            )
        }
    }
}

impl Train {
    pub(crate) fn run(&self) -> Result<()> {
        let (name, text) = recipe_text(&self.recipe)?;
        let recipe = recipe::read(&name, &text, &self.set)?;
        if self.show {
            return print(&toml::to_string(&recipe)?);
        }
        let begin = match (self.resume, self.overwrite) {
            (true, _) => Begin::Resume,
            (_, true) => Begin::Overwrite,
            _ => Begin::New,
        };
        let folder = RunFolder::open(&recipe, begin)?;
        folder.fit_options(&recipe).validate()?;
        let stop = stop_on_interrupt()?;
        run(&name, &recipe, &folder, &stop)
    }
}

/// A flag that is set when the user or the system asks this process to end; a second time ends it.
fn stop_on_interrupt() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))
            .and_then(|_| flag::register(signal, Arc::clone(&stop)))
            .context("cannot listen for Ctrl-C")?;
    }
    Ok(stop)
}

fn run(name: &str, recipe: &Recipe, folder: &RunFolder, stop: &AtomicBool) -> Result<()> {
    if let Some(section) = &recipe.classifier {
        return classify::run(name, recipe, section, folder, stop);
    }
    let mut prepared = Prepared::new(name, recipe, folder)?;
    let digest = DataDigest::new()
        .rows(&prepared.rows)
        .batches(&prepared.evaluation)
        .finish();
    folder.begin(recipe, &digest)?;
    let passport = match recipe.adapter {
        Some(_) => Some(issue(&prepared.checkpoint, &prepared.model, &digest)?),
        None => None,
    };
    let mut config = recipe.train_config(prepared.sampler.steps_per_epoch())?;
    // The gradients of f16 activations run out of exponents.
    config.loss_scaling = (prepared.model.compute_dtype() == DType::F16).then(LossScaling::default);
    let grouping =
        flametune_train::optim::groups(recipe.optim.weight_decay, recipe.optim.loraplus_lr_ratio);
    let objective = Sft {
        pass: prepared.pass.clone(),
        options: recipe.sft_options(),
    };
    let mut trainer = Trainer::new(prepared.model, objective, config, grouping)?;
    if recipe.adapter.is_some() {
        trainer.allocate_ranks(adapter::NAME)?;
    }
    if recipe.optim.paged_states {
        trainer.page_states(&folder.checkpoints())?;
    }
    let mut best = Best::default();
    let mut resumed = None;
    if let Some(at) = folder.resumed() {
        let state = checkpoint::resume(&mut trainer, at)?;
        prepared.sampler = setup::resume_sampler(&prepared.rows, recipe, &state.cursor)?;
        best = state.best;
        resumed = Some(state.step);
    }
    let facts = Facts {
        architecture: architecture(&prepared.checkpoint),
        trained: &prepared.report,
        digest,
        examples: prepared.rows.examples(),
        max_steps: config.max_steps,
    };
    let description = recorder::describe(name, recipe, folder, facts)?;
    let mut record = recorder::open(folder, resumed, description)?;
    let an_epoch = prepared.sampler.steps_per_epoch();
    note(&format!("{} steps, {an_epoch} an epoch", config.max_steps));

    let checkpoint = &prepared.checkpoint;
    let sampling = Sampling::new(recipe, &prepared.text);
    let ask = |model: &CausalLm| sampling.ask(model, &prepared.pass);
    let save_model = |model: &CausalLm, to: &Path| match &passport {
        Some(passport) => save(model, passport, to),
        None => Ok(model
            .save_pretrained(to, checkpoint.config(), MAX_SHARD_BYTES)
            .map(drop)?),
    };
    let mut hooks = FitHooks {
        save_model: &save_model,
        sample: (!recipe.run.sample_prompts.is_empty()).then_some(&ask),
        stop,
        observer: &mut record,
    };
    let data = FitData {
        rows: &prepared.rows,
        sampler: prepared.sampler,
        collator: prepared.collator,
        evaluation: &prepared.evaluation,
    };
    let options = folder.fit_options(recipe);
    let fitted = fit(&mut trainer, data, &options, best, &mut hooks);
    let fitted = recorder::or_failed(&mut record, trainer.steps(), fitted)?;
    if fitted.ended == Ended::Interrupted {
        return interrupted(fitted.steps, config.max_steps);
    }
    let model = trainer.model();
    finish(recipe, folder, model, &save_model, &fitted, &mut record)?;
    if recipe.adapter.is_none() {
        // The tokenizer is the base's, also where a checkpoint was gone on from.
        copy_companions(&model::open(&recipe.model.path)?, &folder.result(recipe))?;
    }
    Ok(())
}

/// Says how to go on.
fn interrupted(steps: usize, max_steps: usize) -> Result<()> {
    print(&format!(
        "stopped after step {steps} of {max_steps}; `--resume` goes on from there"
    ))
}

/// Writes the result, and says what the run came to.
fn finish<M: Module>(
    recipe: &Recipe,
    folder: &RunFolder,
    model: &M,
    save_model: &dyn Fn(&M, &Path) -> flametune_train::Result<()>,
    fitted: &FitReport,
    record: &mut RunRecord,
) -> Result<()> {
    if recipe.adapter.is_some() {
        let zeros = ZeroTensors::of(model, fitted.steps);
        record.event(Event::Zeros(zeros))?;
    }
    let result = folder.result(recipe);
    match best_checkpoint(recipe, folder, fitted)? {
        None => save_model(model, &result)?,
        Some(from) => folder::copy_model(&from, &result)?,
    }
    print(&outcome::text(folder, &result)?)
}

/// The checkpoint that is the run's result, unless that is what was trained last.
fn best_checkpoint(
    recipe: &Recipe,
    folder: &RunFolder,
    fitted: &FitReport,
) -> Result<Option<PathBuf>> {
    let is_last = fitted.best.loss.is_none() || fitted.best.step == fitted.steps;
    if recipe.run.result == ResultOf::Last || is_last {
        return Ok(None);
    }
    let saved = checkpoint::list(&folder.checkpoints())?.into_iter();
    let best = saved.filter(|(step, _)| *step == fitted.best.step);
    Ok(best.map(|(_, path)| path).next())
}

/// The architecture of a model, as its configuration names it.
fn architecture(checkpoint: &Checkpoint) -> Option<String> {
    let config = checkpoint.config().raw();
    let named = config.get("architectures").and_then(|names| names.get(0));
    let named = named.or_else(|| config.get("model_type"));
    named.and_then(|name| name.as_str()).map(str::to_owned)
}

/// Writes an adapter with its passport.
fn save<M: Slots>(model: &M, passport: &Passport, to: &Path) -> flametune_train::Result<()> {
    save_adapter(model, adapter::NAME, to)?;
    passport.write(to)?;
    Ok(())
}
