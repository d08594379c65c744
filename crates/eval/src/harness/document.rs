//! Documents of a task: rows of local files, split by split.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use flametune_data::{ReadOptions, find_files, hub_path, open_records};
use serde_json::{Map, Value};

use super::config::TaskConfig;
use super::functions::ProcessDocs;
use crate::error::{Error, Result};

/// Endings that data files have.
const ENDINGS: &[&str] = &[
    "jsonl",
    "json",
    "parquet",
    "csv",
    "tsv",
    "arrow",
    "jsonl.gz",
    "jsonl.zst",
];

/// Where data of tasks are that name a data set and no files of their own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DataFolders {
    /// Folders with `DATASET/NAME/SPLIT.ENDING`, and that relative names of files are looked for in.
    pub local: Vec<PathBuf>,
    /// Folders that data sets of the hub were fetched to; see [`hub_path`].
    pub hub: Vec<PathBuf>,
}

/// One row of a data set.
#[derive(Debug, Clone)]
pub struct Document {
    /// The columns.
    pub row: Map<String, Value>,
    /// Where it stands, such as `arc.jsonl:4`.
    pub at: String,
    pub(crate) jinja: minijinja::Value,
}

impl Document {
    /// A document that stands at `at`.
    #[must_use]
    pub fn new(row: Map<String, Value>, at: String) -> Self {
        let jinja = minijinja::Value::from(minijinja::value::Serde(&row));
        Self { row, at, jinja }
    }
}

/// The documents of a split and the columns they have.
#[derive(Debug, Clone, Default)]
pub(crate) struct Documents {
    pub(crate) docs: Vec<Document>,
    pub(crate) columns: BTreeSet<String>,
}

/// Reads one split of a task's data.
pub(crate) fn read_split(
    config: &TaskConfig,
    split: &str,
    folders: &DataFolders,
    process: Option<ProcessDocs>,
) -> Result<Documents> {
    let files = find_split(config, split, folders)?;
    let data = |source| Error::Data {
        at: Box::new(config.place("dataset_path")),
        source: Box::new(source),
    };
    let mut rows = Vec::new();
    for file in &files {
        for record in open_records(file, &ReadOptions::default(), 0).map_err(data)? {
            let record = record.map_err(data)?;
            rows.push((record.row, record.at.to_string()));
        }
    }
    if rows.is_empty() {
        return Err(Error::NoDocuments {
            at: Box::new(config.place("dataset_path")),
            split: split.to_owned(),
        });
    }
    fill_columns(&mut rows);
    let mut docs = Vec::with_capacity(rows.len());
    for (index, (row, at)) in rows.into_iter().enumerate() {
        let row = match process {
            None => row,
            Some(process) => process.apply(row).map_err(|missing| {
                let mut place = config.place("process_docs");
                place.doc = Some(index);
                place.data = Some(at.clone());
                Error::MissingField {
                    at: Box::new(place),
                    field: missing.to_owned(),
                }
            })?,
        };
        docs.push(Document::new(row, at));
    }
    let columns = docs
        .first()
        .map(|doc| doc.row.keys().cloned().collect())
        .unwrap_or_default();
    Ok(Documents { docs, columns })
}

/// Gives every row every column, as a table would: what a row lacks is null.
fn fill_columns(rows: &mut [(Map<String, Value>, String)]) {
    let mut columns: Vec<String> = Vec::new();
    let mut seen = BTreeSet::new();
    for (row, _) in rows.iter() {
        for column in row.keys() {
            if seen.insert(column.clone()) {
                columns.push(column.clone());
            }
        }
    }
    for (row, _) in rows {
        if row.len() < columns.len() {
            let mut filled = Map::new();
            for column in &columns {
                filled.insert(column.clone(), row.remove(column).unwrap_or(Value::Null));
            }
            *row = filled;
        }
    }
}

/// The files of a split: those the task names, else those found under a root by the data set's name.
fn find_split(config: &TaskConfig, split: &str, folders: &DataFolders) -> Result<Vec<PathBuf>> {
    let (mut looked_for, mut hint) = (Vec::new(), String::new());
    let folder = config.origin.folder().unwrap_or(Path::new("."));
    for pattern in config.data_files(split) {
        // Beside the task file first, then under the roots, then as it stands.
        let mut candidates = vec![folder.join(&pattern)];
        candidates.extend(folders.local.iter().map(|root| root.join(&pattern)));
        candidates.push(PathBuf::from(&pattern));
        let mut found = None;
        for candidate in candidates {
            let text = candidate.display().to_string();
            if let Ok(files) = find_files(&text) {
                found = Some(files);
                break;
            }
            looked_for.push(text);
        }
        if let Some(files) = found {
            return Ok(files);
        }
    }
    if config.data_files(split).is_empty() {
        for root in &folders.local {
            if let Some(files) = in_folder(root, &stems(config, split), &mut looked_for) {
                return Ok(files);
            }
        }
        let path = config.dataset_path.as_deref().unwrap_or_default();
        match hub_path(&format!("hub:{path}"), &folders.hub) {
            Ok(Some(root)) => {
                let stems = stems_on_hub(config, split);
                if let Some(files) = in_folder(&root, &stems, &mut looked_for) {
                    return Ok(files);
                }
            }
            Err(flametune_data::Error::NotFetched { looked_at, .. }) => {
                let looked_at = looked_at.iter().map(|path| path.display().to_string());
                looked_for.extend(looked_at);
                hint = format!("; `cargo xtask fetch hub:datasets/{path}` fetches it");
            }
            // Not the name of a data set of the hub.
            Ok(None) | Err(_) => {}
        }
    }
    Err(Error::MissingData {
        at: Box::new(config.place("dataset_path")),
        split: split.to_owned(),
        looked_for,
        hint,
    })
}

/// The files of the first of `stems` that a folder has: one, or shards.
fn in_folder(root: &Path, stems: &[String], looked_for: &mut Vec<String>) -> Option<Vec<PathBuf>> {
    for stem in stems {
        for ending in ENDINGS {
            let file = root.join(format!("{stem}.{ending}"));
            if file.is_file() {
                return Some(vec![file]);
            }
            // Shards, as a hub stores them; what is special in a pattern may stand in the path.
            let shards = format!("{stem}-[0-9]*-of-[0-9]*.{ending}");
            let pattern = glob::Pattern::escape(&root.display().to_string());
            if let Ok(files) = find_files(&format!("{pattern}/{shards}")) {
                return Some(files);
            }
        }
        looked_for.push(root.join(stem).display().to_string());
    }
    None
}

/// Where a split may lie in a repository of the hub, without its ending.
fn stems_on_hub(config: &TaskConfig, split: &str) -> Vec<String> {
    let mut stems = Vec::new();
    if let Some(name) = &config.dataset_name {
        stems.push(format!("{name}/{split}"));
        stems.push(format!("data/{name}/{split}"));
        stems.push(format!("{name}_{split}"));
    }
    stems.push(format!("data/{split}"));
    stems.push(split.to_owned());
    stems
}

/// Where a split may lie under a root, without its ending.
fn stems(config: &TaskConfig, split: &str) -> Vec<String> {
    let Some(path) = &config.dataset_path else {
        return Vec::new();
    };
    let last = path.rsplit('/').next().unwrap_or(path);
    let folders = [path.as_str(), &path.replace('/', "--"), last].map(str::to_owned);
    let mut stems = Vec::new();
    for folder in folders {
        if let Some(name) = &config.dataset_name {
            stems.push(format!("{folder}/{name}/{split}"));
            stems.push(format!("{folder}/{name}_{split}"));
        } else {
            stems.push(format!("{folder}/data/{split}"));
        }
        stems.push(format!("{folder}/{split}"));
        stems.push(format!("{folder}_{split}"));
    }
    stems.dedup();
    stems
}
