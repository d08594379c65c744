//! The log: one event a line, as JSON.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::{Observer, Record, io};
use crate::error::{Error, Result};

/// Appends every event to a file, and leaves nothing in a buffer.
#[derive(Debug)]
pub struct JsonlLog {
    path: PathBuf,
    file: File,
}

impl JsonlLog {
    /// Begins a log; folders on the way are made, an old file is replaced.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(path: &Path) -> Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(io(folder))?;
        }
        Ok(Self {
            path: path.to_owned(),
            file: File::create(path).map_err(io(path))?,
        })
    }

    /// Goes on with a log after `step`: it is cut before the first event of a later step, and
    /// before a last line that was not written to its end. Returns what remains; a log that is not
    /// there begins anew.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::RecordLine`] for another line that is no event.
    pub fn resume(path: &Path, step: usize) -> Result<(Self, Vec<Record>)> {
        if !path.exists() {
            return Ok((Self::create(path)?, Vec::new()));
        }
        let text = read_text(path)?;
        let mut records = Vec::new();
        let mut end = 0;
        for line in lines(path, &text) {
            let (record, next) = line?;
            if record.event.step() > step {
                break;
            }
            records.push(record);
            end = next;
        }
        let file = OpenOptions::new().append(true).open(path);
        let file = file.map_err(io(path))?;
        file.set_len(end as u64).map_err(io(path))?;
        let path = path.to_owned();
        Ok((Self { path, file }, records))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Observer for JsonlLog {
    fn observe(&mut self, record: &Record) -> Result<()> {
        let line = serde_json::to_string(record).map_err(std::io::Error::other);
        let mut line = line.map_err(io(&self.path))?;
        line.push('\n');
        let written = self.file.write_all(line.as_bytes());
        written.map_err(io(&self.path))
    }
}

/// Reads a log; a last line that was not written to its end is left out.
///
/// # Errors
/// [`Error::Io`], and [`Error::RecordLine`] for another line that is no event.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    let text = read_text(path)?;
    let records = lines(path, &text).map(|line| line.map(|(record, _)| record));
    records.collect()
}

fn read_text(path: &Path) -> Result<String> {
    let bytes = fs::read(path).map_err(io(path))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The events of a log, each with the place after it.
fn lines<'a>(
    path: &'a Path,
    text: &'a str,
) -> impl Iterator<Item = Result<(Record, usize)>> + use<'a> {
    let mut end = 0;
    let whole = text
        .split_inclusive('\n')
        .take_while(|line| line.ends_with('\n'));
    whole.enumerate().map(move |(index, line)| {
        end += line.len();
        let record = serde_json::from_str(line).map_err(|error| Error::RecordLine {
            path: path.to_owned(),
            line: index + 1,
            reason: error.to_string(),
        })?;
        Ok((record, end))
    })
}
