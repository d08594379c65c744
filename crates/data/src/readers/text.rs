//! Plain text: each file, paragraph or line is a record with one column, `text`.

use std::path::Path;

use serde_json::{Map, Value};

use super::TextUnit;
use super::input::{Input, Line};
use super::record::Record;
use crate::error::{Error, Result};

/// Reads texts; blank ones are no records.
#[derive(Debug)]
pub(super) struct TextReader {
    input: Input,
    unit: TextUnit,
    limit: usize,
    line: u64,
    ended: bool,
}

impl TextReader {
    /// Starts after the first `start` records.
    pub(super) fn open(path: &Path, unit: TextUnit, limit: usize, start: u64) -> Result<Self> {
        let mut reader = Self {
            input: Input::open(path, "text")?,
            unit,
            limit,
            line: 0,
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

    /// Collects the lines of the next record; `None` at the end of the file.
    fn read(&mut self) -> Result<Option<Record>> {
        let (mut text, mut line) = (Vec::new(), Vec::new());
        let mut first_line = 0;
        let mut too_long = false;
        loop {
            let read = self.input.read_line(&mut line, self.limit)?;
            if read == Line::End {
                self.ended = true;
                break;
            }
            self.line += 1;
            let blank = read == Line::Whole && line.trim_ascii().is_empty();
            if first_line == 0 {
                if blank {
                    continue;
                }
                first_line = self.line;
            } else {
                text.push(b'\n');
            }
            too_long |= read == Line::TooLong || text.len() + line.len() > self.limit;
            if too_long {
                text.clear();
            } else {
                text.extend_from_slice(&line);
            }
            let complete = match self.unit {
                TextUnit::File => false,
                TextUnit::Paragraph => blank,
                TextUnit::Line => true,
            };
            if complete {
                break;
            }
        }
        if first_line == 0 {
            return Ok(None);
        }
        let at = self.input.location(first_line);
        self.input.records += 1;
        if too_long {
            let limit = self.limit;
            return Err(Error::RecordTooLarge { at, limit });
        }
        text.truncate(text.trim_ascii_end().len());
        match String::from_utf8(text) {
            Ok(text) => {
                let mut row = Map::new();
                row.insert("text".into(), Value::String(text));
                Ok(Some(Record::new(row, at)))
            }
            Err(error) => Err(Error::InvalidRecord {
                at,
                expected: "UTF-8 text".into(),
                got: error.utf8_error().to_string(),
            }),
        }
    }
}

impl Iterator for TextReader {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let result = self.read();
        if let Err(error) = &result
            && !error.concerns_one_record()
        {
            self.ended = true;
        }
        result.transpose()
    }
}
