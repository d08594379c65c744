//! `flametune train`: from a recipe to a fine-tuned model.

mod folder;
mod log;
mod progress;
mod report;
mod sampling;
pub(crate) mod setup;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};
use clap::Args;
use flametune_lm::{CausalLm, Checkpoint};
use flametune_peft::save_adapter;
use flametune_train::fit::{Ended, FitData, FitHooks, FitReport, Observers, fit};
use flametune_train::{Best, Trainer, checkpoint};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use self::folder::{Begin, RunFolder};
use self::report::RunReport;
use self::sampling::Sampling;
use self::setup::Prepared;
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
    /// dora_sft, full_sft, domain_chatbot
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
            return report::print(&toml::to_string(&recipe)?);
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
    let prepared = Prepared::new(name, recipe, folder)?;
    folder.begin(recipe, &prepared.rows.digest())?;
    let Prepared {
        checkpoint,
        text,
        rows,
        sampler,
        collator,
        evaluation,
        model,
        pass,
        report: trained,
    } = prepared;
    let config = recipe.train_config(sampler.steps_per_epoch())?;
    let grouping =
        flametune_train::optim::groups(recipe.optim.weight_decay, recipe.optim.loraplus_lr_ratio);
    let mut trainer = Trainer::new(model, pass, config, grouping)?;
    let mut sampler = sampler;
    let mut best = Best::default();
    let mut summary = RunReport::new(name, recipe, &trained);
    let mut log = if let Some(at) = folder.resumed() {
        let state = checkpoint::resume(&mut trainer, at)?;
        sampler = setup::resume_sampler(&rows, recipe, &state.cursor)?;
        best = state.best;
        let earlier = log::earlier(&folder.log(), state.step)?;
        summary.remember(&earlier);
        log::Log::go_on(&folder.log(), &earlier)?
    } else {
        log::Log::create(&folder.log())?
    };
    let mut bar = progress::Bar::new();
    let sampling = Sampling::new(recipe, &text);
    let ask = |model: &CausalLm, pass: &_| sampling.ask(model, pass);
    let save_model = |model: &CausalLm, to: &Path| save(recipe, &checkpoint, model, to);
    let mut hooks = FitHooks {
        save_model: &save_model,
        sample: (!recipe.run.sample_prompts.is_empty()).then_some(&ask),
        stop,
        observer: &mut Observers(vec![&mut log, &mut summary, &mut bar]),
    };
    let data = FitData {
        rows: &rows,
        sampler,
        collator,
        evaluation: &evaluation,
    };
    let options = folder.fit_options(recipe);
    let fitted = fit(&mut trainer, data, &options, best, &mut hooks)?;
    if fitted.ended == Ended::Interrupted {
        return report::print(&format!(
            "stopped after step {} of {}; `--resume` goes on from there",
            fitted.steps, config.max_steps
        ));
    }
    let result = write_result(recipe, folder, &checkpoint, &trainer, &fitted)?;
    summary.finish(&fitted, &result, folder)
}

/// Writes the trained parameters: the adapter, or the whole model.
fn save(
    recipe: &Recipe,
    checkpoint: &Checkpoint,
    model: &CausalLm,
    to: &Path,
) -> flametune_train::Result<()> {
    if recipe.adapter.is_some() {
        save_adapter(model, adapter::NAME, to)?;
    } else {
        model.save_pretrained(to, checkpoint.config(), MAX_SHARD_BYTES)?;
    }
    Ok(())
}

/// Writes what the run is for into its folder.
fn write_result(
    recipe: &Recipe,
    folder: &RunFolder,
    checkpoint: &Checkpoint,
    trainer: &Trainer,
    fitted: &FitReport,
) -> Result<PathBuf> {
    let target = folder.result(recipe);
    let best = match (recipe.run.result, fitted.best.loss) {
        (ResultOf::Best, Some(_)) if fitted.best.step != fitted.steps => {
            checkpoint::list(&folder.checkpoints())?
                .into_iter()
                .find(|(step, _)| *step == fitted.best.step)
        }
        _ => None,
    };
    match best {
        None => save(recipe, checkpoint, trainer.model(), &target)?,
        Some((_, from)) => folder::copy_model(&from, &target)?,
    }
    if recipe.adapter.is_none() {
        // The tokenizer is the base's, also where a checkpoint was gone on from.
        copy_companions(&model::open(&recipe.model.path)?, &target)?;
    }
    Ok(target)
}
