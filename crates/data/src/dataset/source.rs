//! The examples of one source, window by window.

use std::path::PathBuf;
use std::sync::Arc;

use super::cursor::SourceCursor;
use super::options::{OnInvalid, Repeats, SourceOptions};
use super::sample::{Exclusions, Sample, SampleId};
use super::split::{Side, Split};
use crate::content::{Part, texts};
use crate::error::{Error, Result};
use crate::formats::{Detected, Format, detect_format, rename_columns};
use crate::random::{below, draw, shuffle};
use crate::readers::{FileKind, Record, Records, find_files, open_records};

/// Text that a window may hold, whatever the number of its examples.
const MAX_WINDOW_BYTES: usize = 256 << 20;

/// Records that are looked at to find the format.
const LOOKED_AT: usize = 16;

/// Messages about invalid records that are kept.
const MESSAGES_KEPT: usize = 5;

/// What was read of a source since the dataset was opened, all passes together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceStats {
    /// Number of records.
    pub records: u64,
    /// Number of them that were left out as invalid.
    pub invalid: u64,
    /// Messages about the first of those.
    pub messages: Vec<String>,
    /// Number of examples set aside by the split, by `skip` and `take`, or as excluded.
    pub set_aside: u64,
    /// Number of examples that were read.
    pub examples: u64,
}

/// What all sources of a dataset have in common.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub(super) seed: u64,
    pub(super) shuffle_buffer: usize,
    pub(super) on_invalid: OnInvalid,
    pub(super) split: Option<(Split, Side)>,
    pub(super) exclusions: Arc<Exclusions>,
}

/// Reads the examples of one source.
pub(super) struct Source {
    index: usize,
    pub(super) files: Vec<PathBuf>,
    pub(super) detected: Detected,
    pub(super) options: SourceOptions,
    pub(super) rules: Rules,
    pub(super) cursor: SourceCursor,
    pub(super) stats: SourceStats,
    /// The files in the order of this pass.
    order: Vec<usize>,
    /// What is left of the window, the next example last.
    window: Vec<Sample>,
    /// Where the next window begins.
    ahead: Ahead,
    reader: Option<Records>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Ahead {
    file: usize,
    record: u64,
    counted: u64,
}

impl Source {
    pub(super) fn open(index: usize, options: SourceOptions, rules: Rules) -> Result<Self> {
        let mut files = Vec::new();
        for path in &options.paths {
            files.extend(find_files(path)?);
        }
        let detected = detect(&files, &options, rules.on_invalid)?;
        let mut source = Self {
            index,
            files,
            detected,
            options,
            rules,
            cursor: SourceCursor::default(),
            stats: SourceStats::default(),
            order: Vec::new(),
            window: Vec::new(),
            ahead: Ahead::default(),
            reader: None,
        };
        source.order = source.file_order();
        Ok(source)
    }

    /// The next example of this pass; `None` at its end.
    pub(super) fn next(&mut self) -> Option<Result<Sample>> {
        if self.window.is_empty()
            && let Err(error) = self.fill()
        {
            return Some(Err(error));
        }
        let sample = self.window.pop()?;
        self.cursor.given += 1;
        Some(Ok(sample))
    }

    /// Ends a pass: the next one begins, unless the epoch has had enough of them.
    pub(super) fn end_pass(&mut self) -> Result<()> {
        if self.cursor.before == 0 {
            return Err(self.empty());
        }
        self.cursor.pass_examples = Some(self.cursor.before);
        self.cursor.pass += 1;
        self.cursor.before = 0;
        self.ahead = Ahead::default();
        self.rewind();
        let passes = self.cursor.pass - self.cursor.epoch_pass;
        self.cursor.done = match self.options.repeats {
            Repeats::Times(times) => passes >= times,
            Repeats::Endless => false,
        };
        Ok(())
    }

    /// Goes to a saved position.
    pub(super) fn restore(&mut self, cursor: &SourceCursor) -> Result<()> {
        self.cursor = cursor.clone();
        self.ahead = Ahead {
            file: cursor.file,
            record: cursor.record,
            counted: cursor.counted,
        };
        self.rewind();
        if cursor.given == 0 {
            return Ok(());
        }
        self.fill()?;
        if self.window.len() < cursor.given {
            return Err(Error::CursorMismatch {
                field: "number of examples from the saved position on",
                saved: format!("at least {}", cursor.given),
                now: self.window.len().to_string(),
            });
        }
        self.window.truncate(self.window.len() - cursor.given);
        self.cursor.given = cursor.given;
        Ok(())
    }

    /// Drops what was read ahead and takes the order of files of the pass.
    fn rewind(&mut self) {
        self.window.clear();
        self.cursor.given = 0;
        self.cursor.file = self.ahead.file;
        self.cursor.record = self.ahead.record;
        self.cursor.counted = self.ahead.counted;
        self.reader = None;
        self.order = self.file_order();
    }

    /// Shards come in another order in each pass, except where `skip` and `take` count from the first.
    fn file_order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.files.len()).collect();
        let counted = self.options.skip > 0 || self.options.take.is_some();
        if self.rules.shuffle_buffer > 0 && !counted {
            shuffle(
                &mut order,
                self.rules.seed,
                &self.purpose("files"),
                self.cursor.pass,
                0,
            );
        }
        order
    }

    /// Reads the next window and shuffles it; it stays empty at the end of the pass.
    fn fill(&mut self) -> Result<()> {
        self.cursor.before += self.cursor.given as u64;
        self.cursor.given = 0;
        self.cursor.file = self.ahead.file;
        self.cursor.record = self.ahead.record;
        self.cursor.counted = self.ahead.counted;
        let wanted = self.window_examples();
        let mut bytes = 0;
        while self.window.len() < wanted && bytes < MAX_WINDOW_BYTES {
            let start = self.window.len();
            if !self.read_record()? {
                break;
            }
            bytes += self.window[start..]
                .iter()
                .flat_map(|sample| texts(&sample.example, Part::All))
                .map(|(_, text)| text.len())
                .sum::<usize>();
        }
        if self.rules.shuffle_buffer > 0 {
            let purpose = self.purpose("window");
            let (pass, before) = (self.cursor.pass, self.cursor.before);
            shuffle(&mut self.window, self.rules.seed, &purpose, pass, before);
        }
        self.window.reverse();
        Ok(())
    }

    /// The size of the next window. Where the source is larger than a window, the first one of each further pass is
    /// shorter, so that neighbours at a border meet in one window in other passes.
    fn window_examples(&self) -> usize {
        let full = self.rules.shuffle_buffer.max(1);
        let larger = self
            .cursor
            .pass_examples
            .is_some_and(|examples| examples > full as u64);
        if larger && self.cursor.before == 0 && self.cursor.pass > 0 {
            let purpose = self.purpose("first window");
            return 1 + below(draw(self.rules.seed, &purpose, self.cursor.pass, 0), full);
        }
        full
    }

    /// Adds the examples of the next record to the window; false at the end of the pass.
    fn read_record(&mut self) -> Result<bool> {
        loop {
            let last = self
                .options
                .take
                .map_or(u64::MAX, |take| self.options.skip.saturating_add(take));
            if self.ahead.counted >= last {
                return Ok(false);
            }
            let Some(&file) = self.order.get(self.ahead.file) else {
                return Ok(false);
            };
            if self.reader.is_none() {
                self.reader = Some(self.open_file(file)?);
            }
            let next = self.reader.as_mut().and_then(Iterator::next);
            let Some(record) = next else {
                self.reader = None;
                self.ahead.file += 1;
                self.ahead.record = 0;
                continue;
            };
            let examples = record.and_then(|record| {
                let at = record.at.clone();
                Ok((at, convert(record, &self.options, self.detected.format)?))
            });
            let number = self.ahead.record;
            self.ahead.record += 1;
            self.stats.records += 1;
            let (at, examples) = match examples {
                Ok(examples) => examples,
                Err(error)
                    if error.concerns_one_record() && self.rules.on_invalid == OnInvalid::Skip =>
                {
                    self.count_invalid(&error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            if let Some((split, side)) = &self.rules.split
                && split.side(&examples) != *side
            {
                self.stats.set_aside += examples.len() as u64;
                continue;
            }
            let before = self.window.len();
            for (part, example) in examples.into_iter().enumerate() {
                let id = SampleId {
                    source: self.index,
                    file,
                    record: number,
                    part,
                };
                let excluded = self.rules.exclusions.contains(&id);
                self.ahead.counted += u64::from(!excluded);
                let counted = self.ahead.counted;
                if excluded || counted <= self.options.skip || counted > last {
                    self.stats.set_aside += 1;
                } else {
                    self.stats.examples += 1;
                    let at = at.clone();
                    self.window.push(Sample { example, at, id });
                }
            }
            if self.window.len() > before {
                return Ok(true);
            }
        }
    }

    /// Opens a file at the record where reading is.
    fn open_file(&self, file: usize) -> Result<Records> {
        let path = &self.files[file];
        let start = self.ahead.record;
        if self.detected.format == Format::OasstRows {
            let records = open_records(path, &self.options.read, 0)?;
            let mut trees = self.detected.format.gather(records);
            for _ in 0..start {
                if let Some(Err(error)) = trees.next()
                    && !error.concerns_one_record()
                {
                    return Err(error);
                }
            }
            return Ok(trees);
        }
        open_records(path, &self.options.read, start)
    }

    fn count_invalid(&mut self, error: &Error) {
        self.stats.invalid += 1;
        if self.stats.messages.len() < MESSAGES_KEPT {
            self.stats.messages.push(error.to_string());
        }
    }

    fn empty(&self) -> Error {
        Error::EmptyDataset {
            sources: self.options.paths.join(", "),
            records: self.stats.records,
            invalid: self.stats.invalid,
            set_aside: self.stats.set_aside,
            first_invalid: self.stats.messages.first().cloned(),
        }
    }

    fn purpose(&self, what: &str) -> String {
        format!("{what} of source {}", self.index)
    }
}

fn convert(
    mut record: Record,
    options: &SourceOptions,
    format: Format,
) -> Result<Vec<crate::Example>> {
    // Rows of a tree were gathered before, and keep the names that they have.
    if format != Format::OasstRows {
        rename_columns(&mut record, &options.columns)?;
    }
    format.convert(&record, &options.convert)
}

/// The format that is named, or the one of the first records.
fn detect(files: &[PathBuf], options: &SourceOptions, on_invalid: OnInvalid) -> Result<Detected> {
    if let Some(format) = options.format {
        return Ok(Detected {
            format,
            reason: "named in the options".into(),
        });
    }
    let mut records = Vec::new();
    let (mut seen, mut first_invalid) = (0, None);
    for file in files {
        let kind = match options.read.kind {
            Some(kind) => kind,
            None => FileKind::of(file)?,
        };
        if kind == FileKind::Text {
            return Ok(Detected {
                format: Format::Text,
                reason: "the files are plain text".into(),
            });
        }
        for record in open_records(file, &options.read, 0)?.take(LOOKED_AT) {
            seen += 1;
            let mapped = record.and_then(|mut record| {
                rename_columns(&mut record, &options.columns)?;
                Ok(record)
            });
            match mapped {
                Ok(record) => records.push(record),
                Err(error) if error.concerns_one_record() && on_invalid == OnInvalid::Skip => {
                    first_invalid.get_or_insert_with(|| error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        if !records.is_empty() {
            return detect_format(&records);
        }
    }
    Err(Error::EmptyDataset {
        sources: options.paths.join(", "),
        records: seen,
        invalid: seen,
        set_aside: 0,
        first_invalid,
    })
}
