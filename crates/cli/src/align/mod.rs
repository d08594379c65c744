//! `flametune align`: from a recipe to a model that does as people prefer.

mod evaluation;
mod folder;
mod log;
mod online;
mod preference;
mod recipe;
mod reward;
mod setup;
mod sft;
mod stage;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::Args;

use self::evaluation::Evaluation;
use self::folder::{Begin, RunFolder};
use self::recipe::{AlignRecipe, BUNDLED};
use self::setup::Workbench;
use crate::recipe::parse;

/// Align a model with preferences or rewards as a recipe says.
///
/// Examples:
///
///   flametune align dpo
///   flametune align ppo --smoke
///   flametune align my-recipe.toml --set optim.learning_rate=1e-5 --resume
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Align {
    /// A recipe (TOML), or the name of one that comes with the command: reward_model,
    /// process_reward, dpo, ipo, kto, orpo, simpo, ppo, grpo, rlhf
    recipe: String,

    /// Change a key of the recipe, such as preference.loss.beta=0.2; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Do little of everything, to see that it works: two steps of a stage, into OUTPUT-smoke
    #[arg(long)]
    smoke: bool,

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

impl Align {
    pub(crate) fn run(&self) -> Result<()> {
        let (name, text) = recipe_text(&self.recipe)?;
        let mut recipe: AlignRecipe = parse(&name, &text, &self.set)?;
        recipe
            .validate()
            .with_context(|| format!("{name} is no recipe that can be run"))?;
        if self.smoke {
            recipe = recipe.smoke();
        }
        if self.show {
            return log::print(&toml::to_string(&recipe)?);
        }
        let begin = match (self.resume, self.overwrite || self.smoke) {
            (true, _) => Begin::Resume,
            (_, true) => Begin::Overwrite,
            _ => Begin::New,
        };
        let folder = RunFolder::open(&recipe, begin)?;
        run(&recipe, &folder)
    }
}

fn recipe_text(recipe: &str) -> Result<(String, String)> {
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

/// Runs the stages that are not done yet, on one base in memory.
fn run(recipe: &AlignRecipe, folder: &RunFolder) -> Result<()> {
    let stop = log::stop_on_interrupt()?;
    let mut bench = Workbench::new(recipe)?;
    let evaluation = Evaluation::read(recipe, &bench)?;
    for name in recipe.stages() {
        let stage = folder.stage(name);
        if stage.is_done() {
            log::note(&format!(
                "{name}: done before, {}",
                stage.result().display()
            ));
            continue;
        }
        if recipe.stages().len() > 1 {
            log::note(&format!("{name}:"));
        }
        let finished = match name {
            "sft" => sft::run(recipe, &mut bench, &stage, &stop)?,
            "preference" => preference::run(recipe, &mut bench, &stage, &stop)?,
            "reward_model" => reward::run(recipe, &mut bench, &stage, &stop)?,
            _ => online::run(recipe, &mut bench, folder, &stage, &stop)?,
        };
        if !finished {
            return log::print("stopped; `--resume` goes on from the last checkpoint");
        }
    }
    match evaluation {
        Some(evaluation) => evaluation::run(&evaluation, recipe, &mut bench, folder),
        None => Ok(()),
    }
}
