//! Everything a run needs to go on, in one folder that appears as a whole.
//!
//! ```text
//! checkpoint-120/
//!   adapter_config.json, adapter_model.safetensors     the adapters (or model.safetensors)
//!   optimizer.safetensors                              averages by parameter path
//!   ranks.safetensors                                  of AdaLoRA: all ranks, and their scores
//!   trainer_state.json                                 counters, cursor, best evaluation
//! ```

mod averages;
mod ranks;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use flametune_data::SamplerCursor;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::TrainConfig;
use crate::early_stopping::Best;
use crate::error::{Error, Result};
use crate::guard::SpikeGuard;
use crate::loss_scaling::LossScale;
use crate::objective::Objective;
use crate::optim::trained;
use crate::trainer::Trainer;

const STATE: &str = "trainer_state.json";
const OPTIMIZER: &str = "optimizer.safetensors";
const RANKS: &str = "ranks.safetensors";
const PREFIX: &str = "checkpoint-";

/// The files of a checkpoint that are of the training and not of the model.
pub const TRAINING_FILES: [&str; 3] = [STATE, OPTIMIZER, RANKS];

/// The part of a checkpoint that is no tensor; `C` says where the data stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainerState<C = SamplerCursor> {
    /// Optimizer steps taken.
    pub step: usize,
    /// Updates that the optimizer counted.
    pub optimizer_steps: u64,
    /// The configuration of the run.
    pub config: TrainConfig,
    /// The settings of its objective.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub objective: Value,
    /// What the objective has learned beside the model.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub objective_state: Value,
    /// Where the data stands.
    pub cursor: C,
    /// The best evaluation so far.
    pub best: Best,
    /// The losses that a jump is measured against.
    pub guard: SpikeGuard,
    /// The loss scale.
    #[serde(default)]
    pub loss_scale: LossScale,
}

/// Writes checkpoint `step` into `folder`; `save_model` writes the trained parameters.
///
/// The checkpoint is written under another name, synced, and renamed: it is there as a whole or
/// not at all.
///
/// # Errors
/// [`Error::Io`] when something cannot be written, and those of `save_model`.
pub fn save<O: Objective, C: Serialize + Clone>(
    folder: &Path,
    trainer: &Trainer<O>,
    cursor: &C,
    best: &Best,
    save_model: &dyn Fn(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let name = format!("{PREFIX}{}", trainer.steps());
    let (target, unfinished) = (
        folder.join(&name),
        folder.join(format!(".{name}.unfinished")),
    );
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { path, source }
    };
    fs::create_dir_all(folder).map_err(at(folder))?;
    remove(&unfinished)?;
    fs::create_dir(&unfinished).map_err(at(&unfinished))?;
    save_model(&unfinished)?;
    averages::write(&unfinished.join(OPTIMIZER), trainer.optimizer())?;
    if let Some(state) = trainer.rank_state() {
        ranks::write(&unfinished.join(RANKS), &state)?;
    }
    let state = TrainerState {
        step: trainer.steps(),
        optimizer_steps: trainer.optimizer().steps(),
        config: *trainer.config(),
        objective: trainer.objective().settings(),
        objective_state: trainer.objective().state(),
        cursor: cursor.clone(),
        best: *best,
        guard: trainer.guard().clone(),
        loss_scale: trainer.loss_scale(),
    };
    let path = unfinished.join(STATE);
    let text = serde_json::to_vec_pretty(&state).map_err(io::Error::other);
    fs::write(&path, text.map_err(at(&path))?).map_err(at(&path))?;
    sync(&unfinished)?;
    remove(&target)?;
    fs::rename(&unfinished, &target).map_err(at(&target))?;
    sync_folder(folder)?;
    Ok(target)
}

/// Reads the part of a checkpoint that is no tensor.
///
/// # Errors
/// [`Error::Io`] and [`Error::Checkpoint`] naming the file.
pub fn read_state<C: DeserializeOwned>(checkpoint: &Path) -> Result<TrainerState<C>> {
    let path = checkpoint.join(STATE);
    let text = fs::read(&path).map_err(|source| Error::Io {
        path: path.clone(),
        source,
    })?;
    serde_json::from_slice(&text).map_err(|error| Error::Checkpoint {
        path,
        reason: error.to_string(),
    })
}

/// Puts `trainer` where the checkpoint was taken.
///
/// # Errors
/// Those of [`read_state`]; [`Error::Checkpoint`] when the run's configuration or its objective is
/// another one now; [`Error::OptimizerState`] when the averages are not those of the model's
/// parameters; those of [`Objective::restore`].
pub fn resume<O: Objective, C: DeserializeOwned>(
    trainer: &mut Trainer<O>,
    checkpoint: &Path,
) -> Result<TrainerState<C>> {
    let state: TrainerState<C> = read_state(checkpoint)?;
    let changed = changed_field(&json!(state.config), &json!(trainer.config()))
        .or_else(|| changed_field(&state.objective, &trainer.objective().settings()));
    if let Some(field) = changed {
        return Err(Error::Checkpoint {
            path: checkpoint.join(STATE),
            reason: format!("`{field}` is another one than when this run was started"),
        });
    }
    trainer.restore_ranks(&checkpoint.join(RANKS), ranks::read)?;
    let mut optimizer = trainer.optimizer().emptied(state.optimizer_steps)?;
    let lengths = trained(trainer.model());
    averages::read(&checkpoint.join(OPTIMIZER), &lengths, &mut optimizer)?;
    trainer
        .objective_mut()
        .restore(state.objective_state.clone())?;
    let watched = (state.guard.clone(), state.loss_scale);
    trainer.restore(state.step, optimizer, watched);
    Ok(state)
}

/// The first setting that differs; a longer or shorter run is another schedule, so `max_steps`
/// counts too.
fn changed_field(saved: &Value, now: &Value) -> Option<String> {
    let (Value::Object(saved), Value::Object(now)) = (saved, now) else {
        return (saved != now).then(|| "objective".to_owned());
    };
    let names = saved.keys().chain(now.keys());
    let mut differing = names.filter(|name| saved.get(*name) != now.get(*name));
    differing.next().cloned()
}

/// The finished checkpoints of a folder, by step, oldest first.
///
/// # Errors
/// [`Error::Io`] when the folder cannot be read; a folder that is absent has none.
pub fn list(folder: &Path) -> Result<Vec<(usize, PathBuf)>> {
    let at = |source| Error::Io {
        path: folder.to_owned(),
        source,
    };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(at(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(at)?;
        let name = entry.file_name();
        let step = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.parse().ok());
        if let Some(step) = step {
            found.push((step, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// Deletes all but the newest `keep` checkpoints and that of `best_step`.
///
/// # Errors
/// [`Error::Io`].
pub fn rotate(folder: &Path, keep: usize, best_step: Option<usize>) -> Result<()> {
    let found = list(folder)?;
    let old = found.len().saturating_sub(keep.max(1));
    for (step, path) in &found[..old] {
        if Some(*step) != best_step {
            remove(path)?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::Io {
            path: path.to_owned(),
            source: error,
        }),
        _ => Ok(()),
    }
}

/// Makes every file of a folder, and the folder, durable.
fn sync(folder: &Path) -> Result<()> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { path, source }
    };
    for entry in fs::read_dir(folder).map_err(at(folder))? {
        let path = entry.map_err(at(folder))?.path();
        if path.is_file() {
            File::open(&path)
                .and_then(|file| file.sync_all())
                .map_err(at(&path))?;
        }
    }
    sync_folder(folder)
}

fn sync_folder(folder: &Path) -> Result<()> {
    // Windows cannot open folders; renames are durable there by other means.
    if cfg!(unix) {
        File::open(folder)
            .and_then(|file| file.sync_all())
            .map_err(|source| Error::Io {
                path: folder.to_owned(),
                source,
            })?;
    }
    Ok(())
}
