//! Reading little-endian fields from bytes that may end at any point.

use std::fmt;
use std::path::Path;

use crate::error::{Error, Result};

/// What is being read, for error messages.
#[derive(Debug, Clone, Copy)]
pub(super) enum Subject<'a> {
    Header,
    PairName(usize),
    Pair(&'a str),
    TensorName(usize),
    Tensor(&'a str),
}

impl fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("header"),
            Self::PairName(index) => write!(f, "name of metadata pair {index}"),
            Self::Pair(key) => write!(f, "value of key `{key}`"),
            Self::TensorName(index) => write!(f, "name of tensor {index}"),
            Self::Tensor(name) => write!(f, "description of tensor `{name}`"),
        }
    }
}

/// A position in the bytes of a file; every read is checked against the end.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    file: &'a Path,
    bytes: &'a [u8],
    at: usize,
    subject: Subject<'a>,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(file: &'a Path, bytes: &'a [u8]) -> Self {
        Self {
            file,
            bytes,
            at: 0,
            subject: Subject::Header,
        }
    }

    pub(super) fn file(&self) -> &'a Path {
        self.file
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Names what the following reads belong to.
    pub(super) fn set_subject(&mut self, subject: Subject<'a>) {
        self.subject = subject;
    }

    fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn truncated(&self, needed: u64) -> Error {
        Error::Truncated {
            file: self.file.to_owned(),
            what: self.subject.to_string(),
            offset: self.at,
            needed,
            available: self.remaining(),
        }
    }

    /// The next `count` bytes.
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let bytes = self
            .at
            .checked_add(count)
            .and_then(|end| self.bytes.get(self.at..end))
            .ok_or_else(|| self.truncated(count as u64))?;
        self.at += count;
        Ok(bytes)
    }

    /// The next `N` bytes as an array, to be read as a number.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (bytes, _) = self.bytes[self.at..]
            .split_first_chunk::<N>()
            .ok_or_else(|| self.truncated(N as u64))?;
        self.at += N;
        Ok(*bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count of items that take at least `min_bytes` each, so that it fits the rest of the file.
    pub(super) fn count(&mut self, min_bytes: usize) -> Result<usize> {
        let count = self.u64()?;
        let limit = self.remaining() / min_bytes;
        match usize::try_from(count) {
            Ok(count) if count <= limit => Ok(count),
            _ => Err(Error::CountTooLarge {
                file: self.file.to_owned(),
                what: self.subject.to_string(),
                count,
                limit,
            }),
        }
    }

    /// A length and that many bytes of UTF-8.
    pub(super) fn string(&mut self) -> Result<&'a str> {
        let length = self.u64()?;
        let offset = self.at;
        let length = usize::try_from(length).map_err(|_| self.truncated(length))?;
        std::str::from_utf8(self.take(length)?).map_err(|_| Error::InvalidUtf8 {
            file: self.file.to_owned(),
            what: self.subject.to_string(),
            offset,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_stop_at_the_end() {
        let mut cursor = Cursor::new(Path::new("m.gguf"), &[1, 0, 0, 0, 9]);
        assert_eq!(cursor.u32().unwrap(), 1);
        cursor.set_subject(Subject::Pair("general.name"));
        assert_eq!(
            cursor.u64().unwrap_err().to_string(),
            "m.gguf: value of key `general.name` at byte 4 needs 8 bytes, the file has 1 left"
        );
        assert_eq!(cursor.take(1).unwrap(), [9]);
    }

    #[test]
    fn a_count_must_fit_the_rest_of_the_file() {
        let mut bytes = u64::MAX.to_le_bytes().to_vec();
        bytes.extend([0; 24]);
        let error = Cursor::new(Path::new("m.gguf"), &bytes)
            .count(12)
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "m.gguf: header announces 18446744073709551615 items, the rest of the file can hold 2"
        );
    }

    #[test]
    fn a_string_length_near_the_top_of_u64_does_not_wrap() {
        let bytes = (u64::MAX - 3).to_le_bytes();
        let error = Cursor::new(Path::new("m.gguf"), &bytes)
            .string()
            .unwrap_err();
        assert!(
            matches!(error, Error::Truncated { available: 0, .. }),
            "{error}"
        );
    }
}
