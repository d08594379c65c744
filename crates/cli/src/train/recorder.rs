//! The record of a run: log, TensorBoard, report, store of runs and terminal.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use flametune_peft::TrainableReport;
use flametune_train::record::{
    AdapterFacts, Clock, DataFacts, Event, EventFile, HtmlReport, ModelFacts, Outcome, REPORT,
    RunDescription, RunRecord, RunStore, Status, StoreObserver, environment,
};

use super::folder::RunFolder;
use super::lenient::Lenient;
use super::terminal::{Terminal, warn};
use crate::recipe::Recipe;

/// The store of runs, beside the folders of the runs.
pub(crate) const STORE: &str = "runs.db";

/// Seconds since 1970.
fn clock() -> Clock {
    Box::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(0.0, |since| since.as_secs_f64())
    })
}

/// Opens the record of a run: from its beginning, or after the step that it goes on from.
pub(crate) fn open(
    folder: &RunFolder,
    resumed: Option<usize>,
    description: RunDescription,
) -> Result<RunRecord> {
    let path = folder.path();
    let mut record = match resumed {
        Some(step) => RunRecord::resume(path, step, clock()),
        None => RunRecord::create(path, clock()),
    }
    .context("cannot write the record of the run")?;
    // The run itself needs none of the three.
    let events = Box::new(EventFile::new(path));
    record.observe_with(Lenient::boxed("the TensorBoard file", events))?;
    let report = Box::new(HtmlReport::new(&path.join(REPORT)));
    record.observe_with(Lenient::boxed("the report", report))?;
    match RunStore::open(&store_path(path)) {
        Ok(store) => {
            let store = Box::new(StoreObserver::new(store));
            record.observe_with(Lenient::boxed("the list of runs", store))?;
        }
        Err(error) => warn(&format!("this run will not be listed: {error}")),
    }
    record.observe_with(Box::new(Terminal::new()))?;
    if !record.is_described() {
        record.event(Event::Started(Box::new(description)))?;
    }
    Ok(record)
}

/// What a run came to; an error that ended it is noted first.
pub(crate) fn or_failed<T, E: Into<anyhow::Error>>(
    record: &mut RunRecord,
    step: usize,
    outcome: Result<T, E>,
) -> Result<T> {
    outcome.map_err(|error| {
        let error: anyhow::Error = error.into();
        let outcome = Outcome {
            step,
            status: Status::Failed,
            reason: Some(format!("{error:#}")),
        };
        if let Err(error) = record.event(Event::Finished(outcome)) {
            warn(&format!("the record of the run is incomplete: {error}"));
        }
        error
    })
}

/// The store of the runs whose folders are beside that of `run`.
fn store_path(run: &Path) -> PathBuf {
    let absolute = std::path::absolute(run).unwrap_or_else(|_| run.to_owned());
    absolute.parent().unwrap_or(run).join(STORE)
}

/// What a run trains, and on what.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) architecture: Option<String>,
    pub(crate) trained: &'a TrainableReport,
    pub(crate) digest: String,
    pub(crate) examples: usize,
    pub(crate) max_steps: usize,
}

/// What a run is.
pub(crate) fn describe(
    name: &str,
    recipe: &Recipe,
    folder: &RunFolder,
    facts: Facts<'_>,
) -> Result<RunDescription> {
    let model = &recipe.model;
    let storage = match &recipe.quant {
        Some(quant) => {
            let kind = serde_json::to_value(quant.kind)?;
            let kind = kind.as_str().unwrap_or_default();
            let nested = if quant.double_quant {
                ", double-quantized"
            } else {
                ""
            };
            format!("{kind} in blocks of {}{nested}", quant.block_size)
        }
        None if recipe.optim.stochastic_rounding => "bf16, rounded at random".to_owned(),
        None if recipe.adapter.is_none() => "f32".to_owned(),
        None => match serde_json::to_value(model.dtype)?.as_str() {
            Some("auto") | None => "as stored".to_owned(),
            Some(dtype) => dtype.to_owned(),
        },
    };
    let paths = recipe.data.sources.iter().flat_map(|source| &source.paths);
    let path = std::path::absolute(folder.path()).unwrap_or_else(|_| folder.path().to_owned());
    let name = Path::new(name).file_stem();
    let last = path.file_name().or(name).unwrap_or_default();
    Ok(RunDescription {
        name: last.to_string_lossy().into_owned(),
        folder: path.display().to_string(),
        max_steps: facts.max_steps,
        config: serde_json::to_value(recipe)?,
        model: ModelFacts {
            name: model.path.clone(),
            architecture: facts.architecture.unwrap_or_default(),
            storage,
        },
        adapter: match recipe.adapter {
            Some(_) => AdapterFacts::of(facts.trained),
            None => AdapterFacts {
                method: "full".to_owned(),
                trainable: facts.trained.total,
                trainable_bytes: facts.trained.base_bytes,
                ..AdapterFacts::of(facts.trained)
            },
        },
        data: DataFacts {
            source: paths.cloned().collect::<Vec<_>>().join(", "),
            digest: facts.digest,
            examples: facts.examples,
        },
        environment: environment(),
    })
}
