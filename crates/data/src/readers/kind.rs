//! What kind of file a path is, by its name and, where that says nothing, by its first bytes.

use std::io::BufRead;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::input::Input;
use crate::error::{Error, Result};

/// How much of a file is looked at.
const HEAD_BYTES: usize = 1 << 16;

/// A file format that records are read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// One JSON object a line (`.jsonl`, `.ndjson`).
    Jsonl,
    /// A JSON list of objects, an object that holds such a list, or objects one after the other (`.json`).
    Json,
    /// Comma-separated values with a header (`.csv`).
    Csv,
    /// Tab-separated values with a header (`.tsv`).
    Tsv,
    /// Apache Parquet (`.parquet`).
    Parquet,
    /// Apache Arrow, as a file or as a stream (`.arrow`, `.feather`, `.ipc`).
    Arrow,
    /// Plain text (`.txt`, `.text`, `.md`).
    Text,
}

impl FileKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Jsonl,
        Self::Json,
        Self::Csv,
        Self::Tsv,
        Self::Parquet,
        Self::Arrow,
        Self::Text,
    ];

    /// The name, as options spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Json => "json",
            Self::Csv => "csv",
            Self::Tsv => "tsv",
            Self::Parquet => "parquet",
            Self::Arrow => "arrow",
            Self::Text => "text",
        }
    }

    /// The kind that a file name says; `.gz`, `.zst` and `.zstd` at its end are passed over.
    pub fn from_name(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        let name = [".gz", ".zst", ".zstd"]
            .iter()
            .find_map(|end| name.strip_suffix(end))
            .unwrap_or(&name);
        Some(match name.rsplit_once('.')?.1 {
            "jsonl" | "ndjson" => Self::Jsonl,
            "json" => Self::Json,
            "csv" => Self::Csv,
            "tsv" => Self::Tsv,
            "parquet" => Self::Parquet,
            "arrow" | "feather" | "ipc" => Self::Arrow,
            "txt" | "text" | "md" => Self::Text,
            _ => return None,
        })
    }

    /// The kind of a file, looking into it where the name leaves a doubt: a `.json` file may hold JSON Lines.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::DamagedFile`] of an archive, [`Error::UnknownFileKind`].
    pub fn of(path: &Path) -> Result<Self> {
        match Self::from_name(path) {
            Some(Self::Json) if is_jsonl(&head(path)?) => Ok(Self::Jsonl),
            Some(kind) => Ok(kind),
            None => {
                let head = head(path)?;
                let start = head.trim_ascii_start();
                if head.starts_with(b"PAR1") {
                    Ok(Self::Parquet)
                } else if head.starts_with(b"ARROW1") || head.starts_with(&[0xff; 4]) {
                    Ok(Self::Arrow)
                } else if is_jsonl(&head) {
                    Ok(Self::Jsonl)
                } else if start.starts_with(b"[") || start.starts_with(b"{") {
                    Ok(Self::Json)
                } else {
                    Err(Error::UnknownFileKind {
                        path: path.to_owned(),
                        known: Self::ALL.map(Self::name).to_vec(),
                    })
                }
            }
        }
    }
}

/// The first bytes of a file, decompressed.
fn head(path: &Path) -> Result<Vec<u8>> {
    let mut input = Input::open(path, "data")?;
    let mut head = Vec::new();
    while head.len() < HEAD_BYTES {
        // What is wrong with the file is said when its records are read.
        let Ok(chunk) = input.bytes.fill_buf() else {
            break;
        };
        if chunk.is_empty() {
            break;
        }
        head.extend_from_slice(chunk);
        let used = chunk.len();
        input.bytes.consume(used);
    }
    Ok(head)
}

/// Whether the first two lines are complete objects.
fn is_jsonl(head: &[u8]) -> bool {
    let mut lines = head
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.trim_ascii().is_empty());
    let is_object = |line: &[u8]| {
        serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(line).is_ok()
    };
    match (lines.next(), lines.next()) {
        (Some(first), Some(second)) => is_object(first) && second.trim_ascii().starts_with(b"{"),
        _ => false,
    }
}
