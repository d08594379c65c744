//! Everything a run needs to go on, in one folder that appears as a whole.
//!
//! ```text
//! checkpoint-120/
//!   adapter_config.json, adapter_model.safetensors     the adapters (or model.safetensors)
//!   optimizer.safetensors                              averages by parameter path
//!   trainer_state.json                                 counters, cursor, best evaluation
//! ```

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use flametune_data::SamplerCursor;
use safetensors::tensor::{Dtype, SafeTensors, View};
use serde::{Deserialize, Serialize};

use crate::config::TrainConfig;
use crate::early_stopping::Best;
use crate::error::{Error, Result};
use crate::guard::SpikeGuard;
use crate::optim::{Moments, Optimizer, trained};
use crate::trainer::Trainer;

const STATE: &str = "trainer_state.json";
const OPTIMIZER: &str = "optimizer.safetensors";
const PREFIX: &str = "checkpoint-";

/// The part of a checkpoint that is no tensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Optimizer steps taken.
    pub step: usize,
    /// Updates that the optimizer counted.
    pub optimizer_steps: u64,
    /// The configuration of the run.
    pub config: TrainConfig,
    /// Where the data stands.
    pub cursor: SamplerCursor,
    /// The best evaluation so far.
    pub best: Best,
    /// The losses that a jump is measured against.
    pub guard: SpikeGuard,
}

/// Writes checkpoint `step` into `folder`; `save_model` writes the trained parameters.
///
/// The checkpoint is written under another name, synced, and renamed: it is there as a whole or
/// not at all.
///
/// # Errors
/// [`Error::Io`] when something cannot be written, and those of `save_model`.
pub fn save(
    folder: &Path,
    trainer: &Trainer,
    cursor: &SamplerCursor,
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
    let optimizer = unfinished.join(OPTIMIZER);
    write_moments(&optimizer, trainer.optimizer().moments())?;
    let state = TrainerState {
        step: trainer.steps(),
        optimizer_steps: trainer.optimizer().steps(),
        config: *trainer.config(),
        cursor: cursor.clone(),
        best: *best,
        guard: trainer.guard().clone(),
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

/// Reads a checkpoint's state and its optimizer.
///
/// # Errors
/// [`Error::Io`] and [`Error::Checkpoint`] naming the file.
pub fn load(checkpoint: &Path) -> Result<(TrainerState, Optimizer)> {
    let path = checkpoint.join(STATE);
    let text = fs::read(&path).map_err(|source| Error::Io {
        path: path.clone(),
        source,
    })?;
    let state: TrainerState = serde_json::from_slice(&text).map_err(|error| Error::Checkpoint {
        path,
        reason: error.to_string(),
    })?;
    let moments = read_moments(&checkpoint.join(OPTIMIZER))?;
    let optimizer = Optimizer::from_parts(state.config.rule, state.optimizer_steps, moments);
    Ok((state, optimizer))
}

/// Puts `trainer` where the checkpoint was taken.
///
/// # Errors
/// Those of [`load`]; [`Error::Checkpoint`] when the run's configuration is another one now;
/// [`Error::OptimizerState`] when the averages are not those of the model's parameters.
pub fn resume(trainer: &mut Trainer, checkpoint: &Path) -> Result<TrainerState> {
    let (state, optimizer) = load(checkpoint)?;
    if let Some(field) = changed_field(&state.config, trainer.config()) {
        return Err(Error::Checkpoint {
            path: checkpoint.join(STATE),
            reason: format!("`{field}` is another one than when this run was started"),
        });
    }
    check_moments(trainer, &optimizer, &checkpoint.join(OPTIMIZER))?;
    trainer.restore(state.step, optimizer, state.guard.clone());
    Ok(state)
}

/// Checks that every average belongs to a trained parameter and has its length.
fn check_moments(trainer: &Trainer, optimizer: &Optimizer, path: &Path) -> Result<()> {
    let lengths = trained(trainer.model());
    let shape = |moments: &[Moments]| {
        let each = |moments: &Moments| match moments {
            Moments::F32(values) => format!("{} in f32", values.len()),
            Moments::Bits8 { codes, .. } => format!("{} in 8 bits", codes.len()),
        };
        moments.iter().map(each).collect::<Vec<_>>().join(" and ")
    };
    for (parameter, moments) in optimizer.moments() {
        let expected = match lengths.get(parameter) {
            Some(&len) => shape(&optimizer.rule().init(len)),
            None => "none, as it is not trained".to_owned(),
        };
        let got = shape(moments);
        if got != expected {
            return Err(Error::OptimizerState {
                path: path.to_owned(),
                parameter: parameter.clone(),
                expected,
                got,
            });
        }
    }
    Ok(())
}

/// The first setting that differs; a longer or shorter run is another schedule, so `max_steps`
/// counts too.
fn changed_field(saved: &TrainConfig, now: &TrainConfig) -> Option<String> {
    let fields = |config: &TrainConfig| match serde_json::to_value(config) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let (saved, now) = (fields(saved), fields(now));
    let mut differing = saved
        .iter()
        .filter(|(name, value)| now.get(*name) != Some(value));
    differing.next().map(|(name, _)| name.clone())
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

struct Numbers {
    dtype: Dtype,
    bytes: Vec<u8>,
    len: usize,
}

impl Numbers {
    fn f32(values: &[f32]) -> Self {
        Self {
            dtype: Dtype::F32,
            bytes: values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            len: values.len(),
        }
    }
}

impl View for Numbers {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        std::slice::from_ref(&self.len)
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// Averages as tensors `PATH#INDEX`, or `PATH#INDEX.codes` and `PATH#INDEX.absmax`.
fn write_moments(path: &Path, moments: &BTreeMap<String, Vec<Moments>>) -> Result<()> {
    let mut tensors = Vec::new();
    for (name, moments) in moments {
        for (index, moments) in moments.iter().enumerate() {
            let name = format!("{name}#{index}");
            match moments {
                Moments::F32(values) => tensors.push((name, Numbers::f32(values))),
                Moments::Bits8 { codes, absmax } => {
                    let bytes = Numbers {
                        dtype: Dtype::U8,
                        len: codes.len(),
                        bytes: codes.clone(),
                    };
                    tensors.push((format!("{name}.codes"), bytes));
                    tensors.push((format!("{name}.absmax"), Numbers::f32(absmax)));
                }
            }
        }
    }
    safetensors::serialize_to_file(tensors, None, path).map_err(|error| Error::Io {
        path: path.to_owned(),
        source: io::Error::other(error),
    })
}

fn read_moments(path: &Path) -> Result<BTreeMap<String, Vec<Moments>>> {
    let wrong = |reason: String| Error::Checkpoint {
        path: path.to_owned(),
        reason,
    };
    let bytes = fs::read(path).map_err(|source| Error::Io {
        path: path.to_owned(),
        source,
    })?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| wrong(error.to_string()))?;
    let f32s = |name: &str| -> Result<Vec<f32>> {
        let tensor = file
            .tensor(name)
            .map_err(|error| wrong(error.to_string()))?;
        if tensor.dtype() != Dtype::F32 {
            return Err(wrong(format!(
                "{name} must be F32, got {:?}",
                tensor.dtype()
            )));
        }
        let (words, _) = tensor.data().as_chunks::<4>();
        Ok(words.iter().map(|word| f32::from_le_bytes(*word)).collect())
    };
    let mut parts: BTreeMap<String, BTreeMap<usize, Moments>> = BTreeMap::new();
    for name in file.names() {
        if name.ends_with(".absmax") {
            continue;
        }
        let plain = name.strip_suffix(".codes").unwrap_or(name);
        let (param, index) = plain
            .rsplit_once('#')
            .and_then(|(param, index)| Some((param, index.parse::<usize>().ok()?)))
            .ok_or_else(|| wrong(format!("{name} must end in # and a number")))?;
        let moments = if plain == name {
            Moments::F32(f32s(name)?)
        } else {
            let codes = file
                .tensor(name)
                .map_err(|error| wrong(error.to_string()))?;
            let (codes, absmax) = (codes.data().to_vec(), f32s(&format!("{plain}.absmax"))?);
            if absmax.len() != codes.len().div_ceil(crate::optim::BLOCK_SIZE_8BIT) {
                let reason = format!("{plain} has {} codes, {} scales", codes.len(), absmax.len());
                return Err(wrong(reason));
            }
            Moments::Bits8 { codes, absmax }
        };
        parts
            .entry(param.to_owned())
            .or_default()
            .insert(index, moments);
    }
    let whole = |(name, parts): (String, BTreeMap<usize, Moments>)| {
        if parts.keys().copied().eq(0..parts.len()) {
            Ok((name, parts.into_values().collect()))
        } else {
            Err(wrong(format!("averages of {name} are missing")))
        }
    };
    parts.into_iter().map(whole).collect()
}
