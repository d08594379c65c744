//! What a dataset is made of.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::split::{Side, Split};
use crate::curation::AugmentationOptions;
use crate::error::{Error, Result};
use crate::formats::{ConvertOptions, Format, check_columns};
use crate::readers::{ReadOptions, hub_path};

/// The sources of a dataset and how they are read.
///
/// # Examples
/// A domain of one's own with 15 % of general instructions against forgetting; the general ones are begun again when
/// they are over before the domain is.
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let options: flametune_data::DatasetOptions = serde_json::from_str(r#"{
///     "seed": 7,
///     "shuffle_buffer": 10000,
///     "split": { "validation": 0.05 },
///     "side": "train",
///     "sources": [
///         { "paths": ["domain/*.jsonl"], "weight": 0.85, "columns": { "prompt": "q", "completion": "a" } },
///         { "paths": ["general.parquet"], "weight": 0.15, "repeats": "endless", "format": "openai" }
///     ]
/// }"#)?;
/// options.validate()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetOptions {
    /// Where records come from; several sources are mixed.
    pub sources: Vec<SourceOptions>,
    /// Seed of the order and of the mixture.
    #[serde(default)]
    pub seed: u64,
    /// Number of examples of each source that are held to be shuffled; 0 keeps the order of the files.
    #[serde(default)]
    pub shuffle_buffer: usize,
    /// Number of epochs; without it there is no end.
    #[serde(default = "one_epoch")]
    pub epochs: Option<u64>,
    /// What happens to a record that is not what its format says.
    #[serde(default)]
    pub on_invalid: OnInvalid,
    /// How records are divided into training and validation.
    #[serde(default)]
    pub split: Option<Split>,
    /// The side of the split that is read.
    #[serde(default)]
    pub side: Option<Side>,
    /// Instructions that are reworded; those of the validation side never are.
    #[serde(default)]
    pub augmentation: Option<AugmentationOptions>,
    /// Folders that data sets of the hub were fetched to; see [`hub_path`](crate::hub_path).
    #[serde(default)]
    pub hub: Vec<PathBuf>,
}

/// One source of a dataset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceOptions {
    /// Files, folders of shards, patterns, or `hub:OWNER/NAME[@REVISION][/PATTERN]`.
    pub paths: Vec<String>,
    /// The format; without it the first records are looked at.
    #[serde(default)]
    pub format: Option<Format>,
    /// Keys of the format whose columns have other names in the files: `prompt = "q"`; dots lead
    /// into a column: `text = "input.1.content"`.
    #[serde(default)]
    pub columns: BTreeMap<String, String>,
    /// Share of this source among the examples, in proportion to the weights of the others.
    #[serde(default = "one")]
    pub weight: f64,
    /// How often the source is gone through in an epoch.
    #[serde(default)]
    pub repeats: Repeats,
    /// Number of examples at the beginning that are left out.
    #[serde(default)]
    pub skip: u64,
    /// Largest number of examples that are read after those, in each pass.
    #[serde(default)]
    pub take: Option<u64>,
    /// How the files are read.
    #[serde(default)]
    pub read: ReadOptions,
    /// How records become examples.
    #[serde(default)]
    pub convert: ConvertOptions,
}

/// What happens to a record that is not what its format says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnInvalid {
    /// Reading ends with an error that names file, line and what was expected.
    #[default]
    Strict,
    /// The record is left out and counted. Damaged files still end reading: what follows the damage would be lost.
    Skip,
}

/// How often a source is gone through in an epoch of the dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "RepeatsOnDisk", into = "RepeatsOnDisk")]
pub enum Repeats {
    /// This often; the epoch lasts until every such source is through.
    Times(u64),
    /// As often as the others need; the source goes on where it was in the next epoch.
    Endless,
}

impl Default for Repeats {
    fn default() -> Self {
        Self::Times(1)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum RepeatsOnDisk {
    Times(u64),
    Word(String),
}

impl TryFrom<RepeatsOnDisk> for Repeats {
    type Error = Error;

    fn try_from(value: RepeatsOnDisk) -> Result<Self> {
        match value {
            RepeatsOnDisk::Times(times) => Ok(Self::Times(times)),
            RepeatsOnDisk::Word(word) if word == "endless" => Ok(Self::Endless),
            RepeatsOnDisk::Word(word) => Err(invalid(
                "repeats",
                "a number from 1 or \"endless\"",
                format!("{word:?}"),
            )),
        }
    }
}

impl From<Repeats> for RepeatsOnDisk {
    fn from(repeats: Repeats) -> Self {
        match repeats {
            Repeats::Times(times) => Self::Times(times),
            Repeats::Endless => Self::Word("endless".into()),
        }
    }
}

impl SourceOptions {
    /// A source of one path, all else by default.
    pub fn new(path: impl Into<String>) -> Self {
        Self {
            paths: vec![path.into()],
            format: None,
            columns: BTreeMap::new(),
            weight: 1.0,
            repeats: Repeats::default(),
            skip: 0,
            take: None,
            read: ReadOptions::default(),
            convert: ConvertOptions::default(),
        }
    }

    /// The source with the places of its data sets of the hub in place of their names.
    pub(super) fn located(&self, hub: &[PathBuf]) -> Result<Self> {
        let mut source = self.clone();
        for path in &mut source.paths {
            if let Some(found) = hub_path(path, hub)? {
                *path = found.to_string_lossy().into_owned();
            }
        }
        Ok(source)
    }
}

impl DatasetOptions {
    /// A dataset of these sources in the order of the files, for one epoch, all else by default.
    pub fn new(sources: Vec<SourceOptions>) -> Self {
        Self {
            sources,
            seed: 0,
            shuffle_buffer: 0,
            epochs: one_epoch(),
            on_invalid: OnInvalid::default(),
            split: None,
            side: None,
            augmentation: None,
            hub: Vec::new(),
        }
    }

    /// Checks the options without looking at a file.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] with the option and what is accepted, [`Error::UnknownName`] of a column.
    pub fn validate(&self) -> Result<()> {
        if self.sources.is_empty() {
            return Err(invalid("sources", "a list of at least one source", "none"));
        }
        for (index, source) in self.sources.iter().enumerate() {
            let option = |name: &str| format!("sources[{index}].{name}");
            check_columns(&source.columns)?;
            if source.paths.is_empty() {
                return Err(invalid(
                    option("paths"),
                    "a list of at least one path",
                    "none",
                ));
            }
            if !(source.weight > 0.0 && source.weight.is_finite()) {
                let got = source.weight.to_string();
                return Err(invalid(option("weight"), "finite and above 0", got));
            }
            if source.repeats == Repeats::Times(0) {
                return Err(invalid(
                    option("repeats"),
                    "a number from 1 or \"endless\"",
                    "0",
                ));
            }
            if source.take == Some(0) {
                return Err(invalid(option("take"), "at least 1", "0"));
            }
            if source.read.max_record_bytes == 0 {
                return Err(invalid(option("read.max_record_bytes"), "at least 1", "0"));
            }
        }
        if self
            .sources
            .iter()
            .all(|source| source.repeats == Repeats::Endless)
        {
            return Err(invalid(
                "repeats",
                "a number for at least one source, since the endless ones follow the others",
                "\"endless\" for all",
            ));
        }
        match (&self.split, self.side) {
            (Some(split), _) => split.check(),
            (None, None | Some(Side::Train)) => Ok(()),
            (None, Some(Side::Validation)) => Err(invalid(
                "side",
                "\"train\" where there is no split",
                "\"validation\"",
            )),
        }
    }
}

fn invalid(option: impl Into<String>, expected: &'static str, got: impl Into<String>) -> Error {
    Error::InvalidOption {
        option: option.into(),
        expected,
        got: got.into(),
    }
}

fn one() -> f64 {
    1.0
}

fn one_epoch() -> Option<u64> {
    Some(1)
}
