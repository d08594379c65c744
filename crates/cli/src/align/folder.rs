//! The folder of a run.
//!
//! ```text
//! OUTPUT/run.json                    the recipe
//! OUTPUT/evaluation.json             before and after, where the recipe asks for it
//! OUTPUT/[STAGE/]record.jsonl        what happened, one event a line
//! OUTPUT/[STAGE/]checkpoints/        to go on from
//! OUTPUT/[STAGE/]adapter/            the result, in PEFT's files
//! ```
//!
//! A run of one stage has no folders of stages.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use flametune_train::checkpoint;
use flametune_train::fit::{Checkpoints, FitOptions};
use serde_json::{Value, json};

use super::recipe::AlignRecipe;

/// What is done with what is in the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begin {
    /// There must be no run.
    New,
    /// The run goes on.
    Resume,
    /// The run is deleted.
    Overwrite,
}

/// The folder of a run.
#[derive(Debug)]
pub(super) struct RunFolder {
    path: PathBuf,
    stages: usize,
}

/// The folder of a stage.
#[derive(Debug)]
pub(super) struct StageFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Opens the folder of a recipe, and notes the recipe in it.
    pub(super) fn open(recipe: &AlignRecipe, begin: Begin) -> Result<Self> {
        let folder = Self {
            path: PathBuf::from(&recipe.run.output),
            stages: recipe.stages().len(),
        };
        let description = folder.path.join("run.json");
        let exists = description.exists();
        let path = folder.path.display();
        match begin {
            Begin::New if exists => bail!(
                "{path} holds a run already: go on with it (--resume), delete it (--overwrite), or \
                 write elsewhere (--set run.output=FOLDER)"
            ),
            Begin::Resume if !exists => bail!("{path} holds no run to go on with"),
            Begin::Resume => {
                check_recipe(&description, recipe)?;
                return Ok(folder);
            }
            Begin::Overwrite => folder.remove(recipe)?,
            Begin::New => {}
        }
        let text = json!({ "recipe": recipe });
        fs::create_dir_all(&folder.path)
            .and_then(|()| fs::write(&description, format!("{text:#}\n")))
            .with_context(|| format!("cannot write to run.output, {path}"))?;
        Ok(folder)
    }

    /// Deletes what a run writes, and nothing else.
    fn remove(&self, recipe: &AlignRecipe) -> Result<()> {
        let gone = |result: std::io::Result<()>, path: &Path| match result {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot delete {}", path.display()))
            }
            _ => Ok(()),
        };
        for name in recipe.stages() {
            let stage = self.stage(name);
            for folder in [stage.checkpoints(), stage.result()] {
                gone(fs::remove_dir_all(&folder), &folder)?;
            }
            for file in [stage.log(), stage.reference()] {
                gone(fs::remove_file(&file), &file)?;
            }
        }
        for file in [self.evaluation(), self.path.join("run.json")] {
            gone(fs::remove_file(&file), &file)?;
        }
        Ok(())
    }

    /// Where the comparison of before and after goes.
    pub(super) fn evaluation(&self) -> PathBuf {
        self.path.join("evaluation.json")
    }

    /// The folder of a stage.
    pub(super) fn stage(&self, name: &str) -> StageFolder {
        let path = match self.stages {
            1 => self.path.clone(),
            _ => self.path.join(name),
        };
        StageFolder { path }
    }
}

/// The recipe must be what it was, but for where the run is.
fn check_recipe(description: &Path, recipe: &AlignRecipe) -> Result<()> {
    let text =
        fs::read(description).with_context(|| format!("cannot read {}", description.display()))?;
    let saved: Value = serde_json::from_slice(&text)
        .with_context(|| format!("cannot read {}", description.display()))?;
    let mut saved = saved["recipe"].clone();
    let mut now = serde_json::to_value(recipe)?;
    for recipe in [&mut saved, &mut now] {
        if let Some(run) = recipe["run"].as_object_mut() {
            run.remove("output");
        }
    }
    let (Value::Object(saved), Value::Object(now)) = (saved, now) else {
        bail!("{} holds no recipe", description.display());
    };
    let names = saved.keys().chain(now.keys());
    let mut differing = names.filter(|name| saved.get(*name) != now.get(*name));
    match differing.next() {
        None => Ok(()),
        Some(section) => bail!(
            "[{section}] is not what it was when the run began; a changed run begins anew, in \
             another run.output"
        ),
    }
}

impl StageFolder {
    /// Where the result goes.
    pub(super) fn result(&self) -> PathBuf {
        self.path.join("adapter")
    }

    /// Whether the result is there.
    pub(super) fn is_done(&self) -> bool {
        self.result().join("adapter_config.json").exists()
    }

    pub(super) fn log(&self) -> PathBuf {
        self.path.join("record.jsonl")
    }

    /// Where log-probabilities under the reference are kept.
    pub(super) fn reference(&self) -> PathBuf {
        self.path.join("reference.safetensors")
    }

    pub(super) fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// The checkpoint to go on from.
    pub(super) fn resumed(&self) -> Result<Option<PathBuf>> {
        let found = checkpoint::list(&self.checkpoints())?;
        Ok(found.into_iter().next_back().map(|(_, path)| path))
    }

    /// When the stage evaluates and saves.
    pub(super) fn fit_options(&self, recipe: &AlignRecipe) -> Result<FitOptions> {
        let options = FitOptions {
            eval_steps: recipe.run.eval_steps,
            checkpoints: Some(Checkpoints {
                folder: self.checkpoints(),
                save_steps: recipe.run.save_steps,
                keep: recipe.run.keep_checkpoints,
            }),
            ..FitOptions::default()
        };
        options.validate()?;
        fs::create_dir_all(&self.path)
            .with_context(|| format!("cannot make {}", self.path.display()))?;
        Ok(options)
    }
}
