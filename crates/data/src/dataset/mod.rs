//! Datasets: examples from files, mixed, divided, shuffled, and resumed exactly.
//!
//! The order is made without keeping a history: shards are permuted in each pass, and the examples of a source are
//! read in windows of `shuffle_buffer` that are permuted each. All random numbers are functions of
//! (seed, purpose, pass, index), so a [`Cursor`] of a few numbers is enough to go on, and going on reads again at most
//! one window of each source.

mod cursor;
mod mix;
mod options;
mod sample;
mod source;
mod split;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde_json::json;
use xxhash_rust::xxh3::xxh3_64;

pub use cursor::{Cursor, SourceCursor};
pub use options::{DatasetOptions, OnInvalid, Repeats, SourceOptions};
pub use sample::{Exclusions, Sample, SampleId};
pub use source::SourceStats;
pub use split::{Side, Split, SplitBy};

use crate::curation::Augmentation;
use crate::error::{Error, Result};
use crate::example::Example;
use crate::formats::Detected;
use source::{Rules, Source};

/// A stream of examples from one or several sources.
///
/// Memory holds one window of each source. The epoch ends when every source with a number of
/// [`repeats`](SourceOptions::repeats) has been gone through that often; those that are through earlier leave their
/// share to the others.
///
/// # Examples
/// ```
/// use flametune_data::{Dataset, DatasetOptions, Example, SourceOptions};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("numbers.jsonl");
/// let lines: String = (0..100).map(|n| format!("{{\"text\": \"number {n}\"}}\n")).collect();
/// std::fs::write(&path, lines)?;
///
/// let mut options = DatasetOptions::new(vec![SourceOptions::new(path.to_str().unwrap())]);
/// options.shuffle_buffer = 32;
/// let mut dataset = Dataset::open(options.clone())?;
/// for _ in 0..41 {
///     dataset.next().unwrap()?;
/// }
/// let saved = serde_json::to_string(&dataset.cursor())?;
///
/// let mut resumed = Dataset::open(options)?;
/// resumed.restore(&serde_json::from_str(&saved)?)?;
/// let rest = |dataset: Dataset| dataset.collect::<Result<Vec<Example>, _>>();
/// assert_eq!(rest(dataset)?, rest(resumed)?);
/// # Ok(())
/// # }
/// ```
pub struct Dataset {
    options: DatasetOptions,
    sources: Vec<Source>,
    epoch: u64,
    step: u64,
    fingerprint: u64,
    augmentation: Option<Augmentation>,
    ended: bool,
}

impl Dataset {
    /// Opens the sources and finds their formats.
    ///
    /// # Errors
    /// What [`DatasetOptions::validate`], [`hub_path`](crate::hub_path), [`find_files`](crate::find_files) and
    /// [`detect_format`](crate::detect_format) refuse, and [`Error::EmptyDataset`] for files without records.
    pub fn open(options: DatasetOptions) -> Result<Self> {
        Self::open_without(options, Exclusions::default())
    }

    /// Opens the sources, leaving out some examples.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_without(options: DatasetOptions, exclusions: Exclusions) -> Result<Self> {
        options.validate()?;
        let rules = Rules {
            seed: options.seed,
            shuffle_buffer: options.shuffle_buffer,
            on_invalid: options.on_invalid,
            split: options
                .split
                .clone()
                .map(|split| (split, options.side.unwrap_or(Side::Train))),
            exclusions: Arc::new(exclusions),
        };
        let sources = options
            .sources
            .iter()
            .enumerate()
            .map(|(index, source)| {
                let source = source.located(&options.hub)?;
                Source::open(index, source, rules.clone())
            })
            .collect::<Result<Vec<_>>>()?;
        let fingerprint = fingerprint(&options, &sources, &rules.exclusions)?;
        let augmentation = match (&options.augmentation, options.side) {
            (None, _) | (_, Some(Side::Validation)) => None,
            (Some(wanted), _) => Some(Augmentation::new(
                options.seed,
                wanted.rate,
                wanted.rewordings.clone(),
            )?),
        };
        Ok(Self {
            augmentation,
            options,
            sources,
            epoch: 0,
            step: 0,
            fingerprint,
            ended: false,
        })
    }

    /// The next example with its origin; `None` when the last epoch is over or after an error.
    ///
    /// # Errors
    /// Those of the readers and formats, and [`Error::EmptyDataset`] when a source has not one example.
    pub fn next_sample(&mut self) -> Option<Result<Sample>> {
        if self.ended {
            return None;
        }
        let next = self.advance();
        self.ended = !matches!(next, Ok(Some(_)));
        next.transpose()
    }

    /// The epoch of the example that came last, from zero; once the last epoch is over, the number of epochs.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The format of each source, and why it was taken.
    pub fn formats(&self) -> Vec<&Detected> {
        self.sources.iter().map(|source| &source.detected).collect()
    }

    /// What was read of each source.
    pub fn stats(&self) -> Vec<&SourceStats> {
        self.sources.iter().map(|source| &source.stats).collect()
    }

    /// The options that the dataset was opened with.
    pub fn options(&self) -> &DatasetOptions {
        &self.options
    }

    /// The position after the example that came last.
    pub fn cursor(&self) -> Cursor {
        Cursor {
            epoch: self.epoch,
            step: self.step,
            sources: self
                .sources
                .iter()
                .map(|source| source.cursor.clone())
                .collect(),
            fingerprint: self.fingerprint,
        }
    }

    /// Goes to a saved position.
    ///
    /// # Errors
    /// [`Error::CursorMismatch`] when it belongs to other options or files; errors of reading.
    pub fn restore(&mut self, cursor: &Cursor) -> Result<()> {
        let mismatch =
            |field, saved: String, now: String| Error::CursorMismatch { field, saved, now };
        if cursor.sources.len() != self.sources.len() {
            return Err(mismatch(
                "number of sources",
                cursor.sources.len().to_string(),
                self.sources.len().to_string(),
            ));
        }
        if cursor.fingerprint != self.fingerprint {
            return Err(mismatch(
                "hash of options and files",
                format!("{:016x}", cursor.fingerprint),
                format!("{:016x}", self.fingerprint),
            ));
        }
        for (source, cursor) in self.sources.iter_mut().zip(&cursor.sources) {
            source.restore(cursor)?;
        }
        self.epoch = cursor.epoch;
        self.step = cursor.step;
        self.ended = false;
        Ok(())
    }

    fn advance(&mut self) -> Result<Option<Sample>> {
        loop {
            if self
                .options
                .epochs
                .is_some_and(|epochs| self.epoch >= epochs)
            {
                return Ok(None);
            }
            let open =
                |source: &Source| !source.cursor.done && source.options.repeats != Repeats::Endless;
            if !self.sources.iter().any(open) {
                self.begin_epoch();
                continue;
            }
            let weights: Vec<_> = self
                .sources
                .iter()
                .map(|source| (!source.cursor.done).then_some(source.options.weight))
                .collect();
            let chosen = mix::choose(&weights, self.options.seed, self.epoch, self.step);
            let Some(source) = chosen.and_then(|index| self.sources.get_mut(index)) else {
                return Ok(None);
            };
            match source.next() {
                Some(sample) => {
                    let mut sample = sample?;
                    if let Some(augmentation) = &self.augmentation {
                        augmentation.apply(&mut sample.example, self.epoch, self.step);
                    }
                    self.step += 1;
                    return Ok(Some(sample));
                }
                None => source.end_pass()?,
            }
        }
    }

    fn begin_epoch(&mut self) {
        self.epoch += 1;
        self.step = 0;
        for source in &mut self.sources {
            source.cursor.done = false;
            source.cursor.epoch_pass = source.cursor.pass;
        }
    }
}

impl Iterator for Dataset {
    type Item = Result<Example>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.next_sample()?.map(|sample| sample.example))
    }
}

impl std::fmt::Debug for Dataset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dataset")
            .field("options", &self.options)
            .field("epoch", &self.epoch)
            .field("step", &self.step)
            .finish_non_exhaustive()
    }
}

/// A hash of everything that decides which examples come in which order. Files count with names and sizes, so that a
/// folder may be moved.
fn fingerprint(
    options: &DatasetOptions,
    sources: &[Source],
    exclusions: &Exclusions,
) -> Result<u64> {
    let mut parts = vec![json!([
        options.seed,
        options.shuffle_buffer,
        options.split,
        options.side,
        exclusions,
    ])];
    for source in sources {
        let of = &source.options;
        let files = source
            .files
            .iter()
            .map(|path| {
                let size = std::fs::metadata(path).map(|data| data.len());
                let size = size.map_err(|error| Error::Io {
                    path: path.clone(),
                    source: error,
                })?;
                let name = path.file_name().map(|name| name.to_string_lossy());
                Ok(json!([name, size]))
            })
            .collect::<Result<Vec<_>>>()?;
        parts.push(json!([
            source.detected.format,
            of.columns,
            of.weight,
            of.repeats,
            of.skip,
            of.take,
            of.read,
            of.convert,
            files,
        ]));
    }
    if let Some(augmentation) = &options.augmentation {
        parts.push(json!(augmentation));
    }
    Ok(xxh3_64(json!(parts).to_string().as_bytes()))
}
