//! Comma- or tab-separated values with a header.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Map, Value};

use super::input::Input;
use super::record::Record;
use crate::error::{Error, Result};

/// Reads one record a row; every cell is text.
pub(super) struct CsvReader {
    /// Names the file and counts records; its bytes belong to `rows`.
    input: Input,
    rows: csv::Reader<Limited>,
    read_since: Arc<AtomicUsize>,
    header: Vec<String>,
    buffer: csv::ByteRecord,
    ended: bool,
}

impl CsvReader {
    /// Starts after the first `start` records.
    pub(super) fn open(path: &Path, delimiter: u8, limit: usize, start: u64) -> Result<Self> {
        let mut input = Input::open(path, "CSV")?;
        let bytes = std::mem::replace(&mut input.bytes, Box::new(io::empty()));
        let read_since = Arc::new(AtomicUsize::new(0));
        let mut rows = csv::ReaderBuilder::new()
            .delimiter(delimiter)
            .from_reader(Limited {
                bytes,
                limit,
                read_since: Arc::clone(&read_since),
            });
        let header: Vec<String> = match rows.headers() {
            Ok(header) => header.iter().map(str::to_owned).collect(),
            Err(error) => return Err(input.damaged(reason(&error))),
        };
        for (index, name) in header.iter().enumerate() {
            if header[..index].contains(name) {
                return Err(input.damaged(format!("the header names {name:?} twice")));
            }
        }
        let mut reader = Self {
            input,
            rows,
            read_since,
            header,
            buffer: csv::ByteRecord::new(),
            ended: false,
        };
        while reader.input.records < start && !reader.ended {
            if let Some(Err(error)) = reader.next()
                && !error.concerns_one_record()
            {
                return Err(error);
            }
        }
        Ok(reader)
    }

    fn record(&mut self) -> Result<Record> {
        let line = self.buffer.position().map_or(0, csv::Position::line);
        let at = self.input.location(line);
        self.input.records += 1;
        let mut row = Map::with_capacity(self.header.len());
        for (name, cell) in self.header.iter().zip(&self.buffer) {
            let text = std::str::from_utf8(cell).map_err(|error| Error::InvalidRecord {
                at: at.clone(),
                expected: format!("UTF-8 text in column {name:?}"),
                got: error.to_string(),
            })?;
            row.insert(name.clone(), Value::from(text));
        }
        Ok(Record::new(row, at))
    }

    fn failed(&mut self, error: csv::Error) -> Error {
        match error.kind() {
            csv::ErrorKind::UnequalLengths {
                pos,
                expected_len,
                len,
            } => {
                let line = pos.as_ref().map_or(0, csv::Position::line);
                let at = self.input.location(line);
                self.input.records += 1;
                Error::InvalidRecord {
                    at,
                    expected: format!("{expected_len} cells as in the header"),
                    got: len.to_string(),
                }
            }
            csv::ErrorKind::Io(source) if source.kind() != io::ErrorKind::FileTooLarge => {
                self.ended = true;
                match error.into_kind() {
                    csv::ErrorKind::Io(source) => self.input.failed(source),
                    other => self.input.damaged(format!("{other:?}")),
                }
            }
            _ => {
                self.ended = true;
                self.input.damaged(reason(&error))
            }
        }
    }
}

impl Iterator for CsvReader {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        self.read_since.store(0, Ordering::Relaxed);
        match self.rows.read_byte_record(&mut self.buffer) {
            Ok(true) => Some(self.record()),
            Ok(false) => {
                self.ended = true;
                None
            }
            Err(error) => Some(Err(self.failed(error))),
        }
    }
}

fn reason(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::Io(source) => source.to_string(),
        _ => error.to_string(),
    }
}

/// Ends with an error when one record, such as one with a quote that never closes, takes more than `limit` bytes.
struct Limited {
    bytes: Box<dyn io::BufRead + Send>,
    limit: usize,
    read_since: Arc<AtomicUsize>,
}

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.bytes.read(buffer)?;
        let since = self.read_since.fetch_add(read, Ordering::Relaxed);
        if since > self.limit {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("a record is larger than the limit of {} bytes", self.limit),
            ));
        }
        Ok(read)
    }
}
