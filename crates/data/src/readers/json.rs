//! JSON documents: a list of objects, an object that holds such a list, or objects one after the other.

use std::io::{self, BufRead};
use std::path::Path;

use super::input::Input;
use super::jsonl::parse_object;
use super::record::Record;
use crate::error::{Error, Result};

/// Keys under which an object may hold the list of records.
const LIST_KEYS: &[&str] = &[
    "data",
    "rows",
    "records",
    "examples",
    "instances",
    "items",
    "samples",
    "train",
];

/// Reads a document element by element: memory holds one record, never the list.
#[derive(Debug)]
pub(super) struct JsonReader {
    input: Input,
    list_key: Option<String>,
    limit: usize,
    buffer: Vec<u8>,
    line: u64,
    column: u64,
    state: State,
    /// Whether values go to the buffer.
    keep: bool,
    /// Records before this number are passed over without being parsed.
    start: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Between documents.
    Outside,
    /// In a list of records; `first` until its first element, `inside` when an object holds the list.
    List { first: bool, inside: bool },
    /// Nothing more is read.
    Ended,
}

/// Finds where a JSON value ends, without parsing it.
struct Extent {
    depth: u64,
    in_string: bool,
    escaped: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The value goes on.
    Inside,
    /// The byte is the last of the value.
    Last,
    /// The value ended before the byte.
    After,
}

impl Extent {
    fn step(&mut self, byte: u8) -> Step {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => {
                    self.in_string = false;
                    if self.depth == 0 {
                        return Step::Last;
                    }
                }
                _ => {}
            }
            return Step::Inside;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' if self.depth > 0 => {
                self.depth -= 1;
                if self.depth == 0 {
                    return Step::Last;
                }
            }
            b'}' | b']' | b',' | b':' | b' ' | b'\t' | b'\r' | b'\n' if self.depth == 0 => {
                return Step::After;
            }
            _ => {}
        }
        Step::Inside
    }
}

impl JsonReader {
    /// Starts after the first `start` records.
    pub(super) fn open(
        path: &Path,
        list_key: Option<&str>,
        limit: usize,
        start: u64,
    ) -> Result<Self> {
        Ok(Self {
            input: Input::open(path, "JSON")?,
            list_key: list_key.map(str::to_owned),
            limit,
            buffer: Vec::new(),
            line: 1,
            column: 1,
            state: State::Outside,
            keep: true,
            start,
        })
    }

    /// Fills the buffer with the next record and returns the line on which it begins.
    fn fill(&mut self) -> Result<Option<u64>> {
        self.buffer.clear();
        loop {
            self.skip_space()?;
            match (self.state, self.peek()?) {
                (State::Ended, _) | (State::Outside, None) => return Ok(None),
                (State::List { .. }, None) => return Err(self.ends_early()),
                (State::Outside, Some(b'[')) => {
                    self.bump();
                    self.state = State::List {
                        first: true,
                        inside: false,
                    };
                }
                (State::Outside, Some(b'{')) => {
                    let line = self.line;
                    if self.object()? {
                        return Ok(Some(line));
                    }
                }
                (State::Outside, Some(byte)) => {
                    return Err(self.unexpected("a list or an object", byte));
                }
                (State::List { inside, .. }, Some(b']')) => {
                    self.bump();
                    if inside {
                        self.rest_of_object()?;
                    }
                    self.state = State::Outside;
                }
                (
                    State::List {
                        first: false,
                        inside,
                    },
                    Some(b','),
                ) => {
                    self.bump();
                    self.state = State::List {
                        first: true,
                        inside,
                    };
                    self.skip_space()?;
                    if let Some(byte @ b']') = self.peek()? {
                        return Err(self.unexpected("a record", byte));
                    }
                }
                (
                    State::List {
                        first: true,
                        inside,
                    },
                    Some(_),
                ) => {
                    let line = self.line;
                    self.value(0)?;
                    self.state = State::List {
                        first: false,
                        inside,
                    };
                    return Ok(Some(line));
                }
                (State::List { .. }, Some(byte)) => return Err(self.unexpected("',' or ']'", byte)),
            }
        }
    }

    /// Reads an object outside of a list. Returns whether it is a record itself; otherwise reading has come to the
    /// first element of the list that it holds.
    fn object(&mut self) -> Result<bool> {
        self.take()?;
        loop {
            self.skip_space()?;
            match self.peek()? {
                Some(b'}') => {
                    self.take()?;
                    return Ok(true);
                }
                Some(b'"') => {}
                Some(byte) => return Err(self.unexpected("a key or '}'", byte)),
                None => return Err(self.ends_early()),
            }
            let from = self.buffer.len();
            self.value(0)?;
            let holds_list = self.is_list_key(from);
            self.skip_space()?;
            match self.peek()? {
                Some(b':') => self.take()?,
                Some(byte) => return Err(self.unexpected("':'", byte)),
                None => return Err(self.ends_early()),
            }
            self.skip_space()?;
            if holds_list && self.peek()? == Some(b'[') {
                self.take()?;
                self.skip_space()?;
                if matches!(self.peek()?, Some(b'{' | b']')) {
                    self.buffer.clear();
                    self.state = State::List {
                        first: true,
                        inside: true,
                    };
                    return Ok(false);
                }
                self.value(1)?;
            } else {
                self.value(0)?;
            }
            self.skip_space()?;
            match self.peek()? {
                Some(b',') => self.take()?,
                Some(b'}') => {}
                Some(byte) => return Err(self.unexpected("',' or '}'", byte)),
                None => return Err(self.ends_early()),
            }
        }
    }

    /// Passes over what follows the list in the object that holds it.
    fn rest_of_object(&mut self) -> Result<()> {
        self.keep = false;
        let result = self.value(1);
        self.keep = true;
        result
    }

    fn is_list_key(&self, from: usize) -> bool {
        let Ok(key) = serde_json::from_slice::<String>(&self.buffer[from..]) else {
            return false;
        };
        match &self.list_key {
            Some(wanted) => *wanted == key,
            None => LIST_KEYS.contains(&key.as_str()),
        }
    }

    /// Appends one value to the buffer, or what is left of one that is open `depth` brackets deep.
    fn value(&mut self, depth: u64) -> Result<()> {
        let mut extent = Extent {
            depth,
            in_string: false,
            escaped: false,
        };
        loop {
            let chunk = match self.input.bytes.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.input.failed(error)),
            };
            if chunk.is_empty() {
                return Err(self.ends_early());
            }
            let (mut used, mut ended) = (0, false);
            for &byte in chunk {
                let step = extent.step(byte);
                if step == Step::After {
                    ended = true;
                    break;
                }
                used += 1;
                self.column += 1;
                if byte == b'\n' {
                    self.line += 1;
                    self.column = 1;
                }
                if step == Step::Last {
                    ended = true;
                    break;
                }
            }
            if self.buffer.len() + used > self.limit && self.keep {
                return Err(self.input.damaged(format!(
                    "line {}: the record is larger than the limit of {} bytes",
                    self.line, self.limit
                )));
            }
            if self.keep {
                self.buffer.extend_from_slice(&chunk[..used]);
            }
            self.input.bytes.consume(used);
            if ended {
                return Ok(());
            }
        }
    }

    fn peek(&mut self) -> Result<Option<u8>> {
        loop {
            match self.input.bytes.fill_buf() {
                Ok(bytes) => return Ok(bytes.first().copied()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.input.failed(error)),
            }
        }
    }

    fn bump(&mut self) {
        self.input.bytes.consume(1);
        self.column += 1;
    }

    /// Moves one byte into the buffer.
    fn take(&mut self) -> Result<()> {
        if let Some(byte) = self.peek()? {
            self.buffer.push(byte);
            self.bump();
        }
        Ok(())
    }

    fn skip_space(&mut self) -> Result<()> {
        while let Some(byte @ (b' ' | b'\t' | b'\r' | b'\n')) = self.peek()? {
            self.bump();
            if byte == b'\n' {
                self.line += 1;
                self.column = 1;
            }
        }
        Ok(())
    }

    fn unexpected(&self, expected: &str, byte: u8) -> Error {
        Error::InvalidJson {
            file: self.input.file.display().to_string(),
            line: usize::try_from(self.line).unwrap_or(usize::MAX),
            column: usize::try_from(self.column).unwrap_or(usize::MAX),
            reason: format!("expected {expected}, got {:?}", char::from(byte)),
        }
    }

    fn ends_early(&self) -> Error {
        self.input
            .damaged(format!("the file ends early, on line {}", self.line))
    }
}

impl Iterator for JsonReader {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.fill() {
                Ok(None) => {
                    self.state = State::Ended;
                    return None;
                }
                Ok(Some(_)) if self.input.records < self.start => self.input.records += 1,
                Ok(Some(line)) => {
                    let at = self.input.location(line);
                    self.input.records += 1;
                    return Some(match parse_object(&self.buffer) {
                        Ok(row) => Ok(Record::new(row, at)),
                        Err(got) => Err(Error::InvalidRecord {
                            at,
                            expected: "a JSON object".into(),
                            got,
                        }),
                    });
                }
                Err(error) => {
                    let ended = self.state == State::Ended;
                    self.state = State::Ended;
                    return (!ended).then_some(Err(error));
                }
            }
        }
    }
}
