//! The bytes of a text file, decompressed, with limits on what one record may hold.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use super::record::Location;
use crate::error::{Error, Result};

/// A text file as it is read from the front, and how far reading has come.
pub(super) struct Input {
    pub(super) file: Arc<Path>,
    pub(super) bytes: Box<dyn BufRead + Send>,
    /// What the file is called in messages about damage.
    pub(super) kind: &'static str,
    /// Number of whole records that were read.
    pub(super) records: u64,
    compressed: bool,
}

/// What a line turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// There is none: the file ends.
    End,
    /// The buffer holds it, without its line break.
    Whole,
    /// It is longer than the limit and was passed over.
    TooLong,
}

impl Input {
    /// Opens a file; gzip and zstd are known by their first bytes, a byte order mark is passed over.
    pub(super) fn open(path: &Path, kind: &'static str) -> Result<Self> {
        let io = |source| Error::Io {
            path: path.to_owned(),
            source,
        };
        let mut raw = BufReader::with_capacity(1 << 16, File::open(path).map_err(io)?);
        let magic = raw.fill_buf().map_err(io)?;
        let (mut bytes, kind, compressed): (Box<dyn BufRead + Send>, _, _) =
            if magic.starts_with(&[0x1f, 0x8b]) {
                let decoder = flate2::bufread::MultiGzDecoder::new(raw);
                (Box::new(buffered(decoder)), "gzip", true)
            } else if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
                let decoder = zstd::stream::read::Decoder::with_buffer(raw).map_err(io)?;
                (Box::new(buffered(decoder)), "zstd", true)
            } else {
                (Box::new(raw), kind, false)
            };
        // The first bytes of a damaged archive fail here already.
        let marked = match bytes.fill_buf() {
            Ok(start) => start.starts_with("\u{feff}".as_bytes()),
            Err(source) if compressed => {
                return Err(Error::DamagedFile {
                    file: path.display().to_string(),
                    kind,
                    records: 0,
                    reason: source.to_string(),
                });
            }
            Err(source) => return Err(io(source)),
        };
        if marked {
            bytes.consume('\u{feff}'.len_utf8());
        }
        Ok(Self {
            file: Arc::from(path),
            bytes,
            kind,
            records: 0,
            compressed,
        })
    }

    /// A failed read: damage of the archive, or a fault of the machine.
    pub(super) fn failed(&self, source: io::Error) -> Error {
        if self.compressed {
            self.damaged(source.to_string())
        } else {
            Error::Io {
                path: self.file.to_path_buf(),
                source,
            }
        }
    }

    /// The error that nothing more can be read.
    pub(super) fn damaged(&self, reason: impl Into<String>) -> Error {
        Error::DamagedFile {
            file: self.file.display().to_string(),
            kind: self.kind,
            records: self.records,
            reason: reason.into(),
        }
    }

    /// The place of the record after those that were read.
    pub(super) fn location(&self, line: u64) -> Location {
        Location {
            file: Arc::clone(&self.file),
            record: self.records + 1,
            line: Some(line),
        }
    }

    /// Reads up to the next line break, which is dropped, keeping at most `limit` bytes.
    pub(super) fn read_line(&mut self, buffer: &mut Vec<u8>, limit: usize) -> Result<Line> {
        buffer.clear();
        let (mut any, mut too_long) = (false, false);
        loop {
            let available = match self.bytes.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.failed(error)),
            };
            if available.is_empty() {
                break;
            }
            any = true;
            let end = available.iter().position(|&byte| byte == b'\n');
            let text = &available[..end.unwrap_or(available.len())];
            if buffer.len() + text.len() > limit {
                too_long = true;
            }
            if !too_long {
                buffer.extend_from_slice(text);
            }
            let used = text.len() + usize::from(end.is_some());
            self.bytes.consume(used);
            if end.is_some() {
                break;
            }
        }
        if buffer.last() == Some(&b'\r') {
            buffer.pop();
        }
        Ok(match (any, too_long) {
            (false, _) => Line::End,
            (true, false) => Line::Whole,
            (true, true) => Line::TooLong,
        })
    }
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Input")
            .field("file", &self.file)
            .field("kind", &self.kind)
            .field("records", &self.records)
            .finish_non_exhaustive()
    }
}

fn buffered<R: Read>(reader: R) -> BufReader<R> {
    BufReader::with_capacity(1 << 16, reader)
}
