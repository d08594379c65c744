//! The folder of a run.
//!
//! ```text
//! OUTPUT/run.json                the recipe with all its defaults, and a digest of the data
//! OUTPUT/record.jsonl            what happened, one event a line
//! OUTPUT/report.html             the same for people: curves, samples, figures
//! OUTPUT/events.out.tfevents.*   the same for TensorBoard
//! OUTPUT/checkpoints/            what `--resume` goes on from
//! OUTPUT/adapter/                the result, in PEFT's files (OUTPUT/model/ of full fine-tuning)
//! ```

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use flametune_train::checkpoint::{self, TRAINING_FILES};
use flametune_train::fit::{Checkpoints, FitOptions};
use flametune_train::record::{LOG, REPORT};
use serde_json::{Value, json};

use crate::recipe::{ADAPTER, Recipe};

/// How the names of TensorBoard's files begin.
const EVENTS: &str = "events.out.tfevents.";

/// What `flametune train` does with what is in the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    /// There must be no run.
    New,
    /// The run goes on.
    Resume,
    /// The run is deleted.
    Overwrite,
}

/// The folder of a run.
#[derive(Debug)]
pub(crate) struct RunFolder {
    path: PathBuf,
    /// The checkpoint that the run goes on from.
    resumed: Option<PathBuf>,
}

impl RunFolder {
    /// Opens the folder of a recipe, and makes sure that it can be written to.
    pub(crate) fn open(recipe: &Recipe, begin: Begin) -> Result<Self> {
        let path = PathBuf::from(&recipe.run.output);
        let mut folder = Self {
            path,
            resumed: None,
        };
        let exists = folder.description().exists();
        match begin {
            Begin::New if exists => bail!(
                "{} holds a run already: go on with it (--resume), delete it (--overwrite), or \
                 write elsewhere (--set run.output=FOLDER)",
                folder.path.display()
            ),
            Begin::Overwrite => folder.remove_run()?,
            Begin::Resume if !exists => {
                bail!("{} holds no run to go on with", folder.path.display())
            }
            Begin::Resume => {
                folder.check_recipe(recipe)?;
                let found = checkpoint::list(&folder.checkpoints())?;
                folder.resumed = found.into_iter().next_back().map(|(_, path)| path);
            }
            Begin::New => {}
        }
        folder.probe()?;
        Ok(folder)
    }

    /// Writes a file and deletes it: what cannot be written shall not cost hours.
    fn probe(&self) -> Result<()> {
        let probe = self.path.join(".probe");
        fs::create_dir_all(&self.path)
            .and_then(|()| fs::write(&probe, b"flametune"))
            .and_then(|()| fs::remove_file(&probe))
            .with_context(|| format!("cannot write to run.output, {}", self.path.display()))
    }

    fn remove_run(&self) -> Result<()> {
        let gone = |result: std::io::Result<()>, path: &Path| match result {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot delete {}", path.display()))
            }
            _ => Ok(()),
        };
        for name in ["checkpoints", ADAPTER, "model"] {
            let path = self.path.join(name);
            gone(fs::remove_dir_all(&path), &path)?;
        }
        for path in [
            self.path.join(LOG),
            self.path.join(REPORT),
            self.description(),
        ] {
            gone(fs::remove_file(&path), &path)?;
        }
        let Ok(entries) = fs::read_dir(&self.path) else {
            return Ok(());
        };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(EVENTS) {
                gone(fs::remove_file(entry.path()), &entry.path())?;
            }
        }
        Ok(())
    }

    /// Notes what the run is; of a resumed run, makes sure that its data is what it was.
    pub(crate) fn begin(&self, recipe: &Recipe, data: &str) -> Result<()> {
        let path = self.description();
        if self.resumed.is_some() {
            let saved = self.read_description()?;
            let saved = saved["data"].as_str().unwrap_or_default();
            if saved != data {
                bail!(
                    "the data is not what it was when the run began (digest {saved}, now {data}); \
                     a changed run begins anew, in another run.output"
                );
            }
            return Ok(());
        }
        let text = json!({ "recipe": recipe, "data": data });
        fs::write(&path, format!("{text:#}\n"))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn read_description(&self) -> Result<Value> {
        let path = self.description();
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("cannot read {}", path.display()))
    }

    fn check_recipe(&self, recipe: &Recipe) -> Result<()> {
        let mut saved = self.read_description()?["recipe"].take();
        let mut now = serde_json::to_value(recipe)?;
        // A run may be moved.
        for recipe in [&mut saved, &mut now] {
            if let Some(run) = recipe["run"].as_object_mut() {
                run.remove("output");
            }
        }
        match difference("", &saved, &now) {
            None => Ok(()),
            Some((key, saved, now)) => bail!(
                "`{key}` was {saved} when the run began and is {now} now; a changed run begins \
                 anew, in another run.output"
            ),
        }
    }

    /// The checkpoint that the run goes on from; none when it begins.
    pub(crate) fn resumed(&self) -> Option<&Path> {
        self.resumed.as_deref()
    }

    /// When the run evaluates, saves and asks.
    pub(crate) fn fit_options(&self, recipe: &Recipe) -> FitOptions {
        let run = &recipe.run;
        FitOptions {
            eval_steps: run.eval_steps,
            sample_steps: run.sample_steps,
            checkpoints: Some(Checkpoints {
                folder: self.checkpoints(),
                save_steps: run.save_steps,
                keep: run.keep_checkpoints,
            }),
            early_stopping: run.early_stopping,
        }
    }

    /// Where the result goes.
    pub(crate) fn result(&self, recipe: &Recipe) -> PathBuf {
        self.path.join(match recipe.adapter {
            Some(_) => ADAPTER,
            None => "model",
        })
    }

    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn description(&self) -> PathBuf {
        self.path.join("run.json")
    }
}

/// The first key at which two values differ, with both.
fn difference(key: &str, saved: &Value, now: &Value) -> Option<(String, String, String)> {
    let none = Value::Null;
    if let (Value::Object(a), Value::Object(b)) = (saved, now) {
        let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
        return keys.into_iter().find_map(|name| {
            let path = match key {
                "" => name.clone(),
                key => format!("{key}.{name}"),
            };
            let of = |fields: &serde_json::Map<String, Value>| {
                fields.get(name).cloned().unwrap_or_default()
            };
            difference(&path, &of(a), &of(b))
        });
    }
    let shown = |value: &Value| match value == &none {
        true => "not set".to_owned(),
        false => value.to_string(),
    };
    (saved != now).then(|| (key.to_owned(), shown(saved), shown(now)))
}

/// The recipe of the run in a folder, with all its defaults.
pub(crate) fn saved_recipe(run: &Path) -> Result<Recipe> {
    let folder = RunFolder {
        path: run.to_owned(),
        resumed: None,
    };
    let mut description = folder.read_description()?;
    serde_json::from_value(description["recipe"].take())
        .with_context(|| format!("cannot read {}", folder.description().display()))
}

/// Copies the model's files of a checkpoint, without the state of the training.
pub(crate) fn copy_model(from: &Path, to: &Path) -> Result<()> {
    let copy = || -> std::io::Result<()> {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let name = entry.file_name();
            if !TRAINING_FILES.contains(&&*name.to_string_lossy()) {
                fs::copy(entry.path(), to.join(name))?;
            }
        }
        Ok(())
    };
    copy().with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_named_with_both_values() {
        let a = json!({"optim": {"rate": 1, "rule": {"type": "adamw"}}, "seed": 0});
        let b = json!({"optim": {"rate": 1, "rule": {"type": "lion"}}, "seed": 1});
        let expected = ["optim.rule.type", "\"adamw\"", "\"lion\""].map(str::to_owned);
        let [key, saved, now] = expected;
        assert_eq!(difference("", &a, &b), Some((key, saved, now)));
        assert_eq!(difference("", &a, &a), None);
        let c = json!({"optim": a["optim"], "seed": 0, "steps": 3});
        let found = difference("", &a, &c).map(|(key, saved, _)| (key, saved));
        assert_eq!(found, Some(("steps".to_owned(), "not set".to_owned())));
    }
}
