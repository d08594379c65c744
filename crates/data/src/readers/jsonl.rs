//! JSON Lines: one object on each line.

use serde_json::{Map, Value};

use super::input::{Input, Line};
use super::record::Record;
use crate::error::{Error, Result};

/// Reads one object a line; a broken line is an error of its own, and reading goes on after it.
#[derive(Debug)]
pub(super) struct JsonlReader {
    input: Input,
    line: u64,
    limit: usize,
    buffer: Vec<u8>,
    ended: bool,
}

impl JsonlReader {
    /// Starts after the first `start` records, whose text is not parsed.
    pub(super) fn open(path: &std::path::Path, limit: usize, start: u64) -> Result<Self> {
        let mut reader = Self {
            input: Input::open(path, "JSON Lines")?,
            line: 0,
            limit,
            buffer: Vec::new(),
            ended: false,
        };
        while reader.input.records < start && reader.fill()? != Line::End {
            reader.input.records += 1;
        }
        Ok(reader)
    }

    /// Reads the next line that is not blank.
    fn fill(&mut self) -> Result<Line> {
        loop {
            let line = self.input.read_line(&mut self.buffer, self.limit)?;
            self.line += u64::from(line != Line::End);
            if line != Line::Whole || !self.buffer.trim_ascii().is_empty() {
                return Ok(line);
            }
        }
    }

    fn parse(&mut self, line: &Line) -> Result<Record> {
        let at = self.input.location(self.line);
        self.input.records += 1;
        if *line == Line::TooLong {
            return Err(Error::RecordTooLarge {
                at,
                limit: self.limit,
            });
        }
        match parse_object(&self.buffer) {
            Ok(row) => Ok(Record::new(row, at)),
            Err(got) => Err(Error::InvalidRecord {
                at,
                expected: "a JSON object".into(),
                got,
            }),
        }
    }
}

impl Iterator for JsonlReader {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        match self.fill() {
            Ok(Line::End) => {
                self.ended = true;
                None
            }
            Ok(line) => Some(self.parse(&line)),
            Err(error) => {
                self.ended = true;
                Some(Err(error))
            }
        }
    }
}

/// Parses an object, or says what was there instead.
pub(super) fn parse_object(bytes: &[u8]) -> std::result::Result<Map<String, Value>, String> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(row)) => Ok(row),
        Ok(other) => Err(crate::message::json_kind(&other).into()),
        Err(error) if error.line() > 1 => Err(format!(
            "broken JSON in column {} of its line {}: {}",
            error.column(),
            error.line(),
            reason(&error)
        )),
        Err(error) => Err(format!(
            "broken JSON in column {}: {}",
            error.column(),
            reason(&error)
        )),
    }
}

/// The text of a `serde_json` error without the position that it ends with.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}
