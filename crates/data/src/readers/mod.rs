//! Records from files of many kinds, one at a time.
//!
//! | kind | memory | a broken record |
//! |---|---|---|
//! | JSON Lines, text | one line or paragraph | is an error of its own; reading goes on |
//! | JSON | one element of the list | goes on where the element is a whole bracketed value; otherwise ends the file |
//! | CSV, TSV | one row | a row with too few or too many cells is an error of its own |
//! | Parquet, Arrow | one batch | ends the file |
//!
//! gzip and zstd around the text kinds are known by their first bytes.

mod cell;
mod columnar;
mod csv;
mod files;
mod hub;
mod input;
mod json;
mod jsonl;
mod kind;
mod record;
#[cfg(test)]
mod tests;
mod text;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use files::find_files;
pub use hub::hub_path;
pub use kind::FileKind;
pub use record::{Location, Record};

use crate::error::{Error, Result};

/// Records of one file, in order. After an error that does not concern one record alone, there are no more.
pub type Records = Box<dyn Iterator<Item = Result<Record>> + Send>;

/// How files are read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReadOptions {
    /// The kind of the files, where the name does not tell.
    pub kind: Option<FileKind>,
    /// Largest record that is accepted, in bytes.
    pub max_record_bytes: usize,
    /// What a record of a plain text file is.
    pub text_unit: TextUnit,
    /// The key under which a JSON object holds the list of records; by default `data`, `rows`, `records`, `examples`,
    /// `instances`, `items`, `samples` or `train`.
    pub list_key: Option<String>,
    /// The character between the cells of a CSV file, when it is not a comma.
    pub delimiter: Option<char>,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            kind: None,
            max_record_bytes: 32 << 20,
            text_unit: TextUnit::default(),
            list_key: None,
            delimiter: None,
        }
    }
}

/// What a record of a plain text file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TextUnit {
    /// The whole file.
    File,
    /// Lines up to a blank one.
    #[default]
    Paragraph,
    /// One line.
    Line,
}

/// Opens a file after its first `start` records.
///
/// Records before `start` are passed over, without parsing where the kind allows: this is how reading is resumed.
///
/// # Errors
/// [`Error::Io`], [`Error::UnknownFileKind`], [`Error::DamagedFile`], [`Error::InvalidOption`]; the records
/// themselves are [`Error::InvalidRecord`] or [`Error::RecordTooLarge`] when only one is bad.
///
/// # Examples
/// ```
/// use flametune_data::{ReadOptions, open_records};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("two.jsonl");
/// std::fs::write(&path, "{\"text\": \"one\"}\nbroken\n{\"text\": \"two\"}\n")?;
/// let records: Vec<_> = open_records(&path, &ReadOptions::default(), 0)?.collect();
/// assert_eq!(records[0].as_ref().unwrap().row["text"], "one");
/// assert!(records[1].as_ref().unwrap_err().to_string().contains("two.jsonl:2: expected a JSON object"));
/// assert_eq!(records[2].as_ref().unwrap().row["text"], "two");
/// # Ok(())
/// # }
/// ```
pub fn open_records(path: &Path, options: &ReadOptions, start: u64) -> Result<Records> {
    let kind = match options.kind {
        Some(kind) => kind,
        None => FileKind::of(path)?,
    };
    let limit = options.max_record_bytes;
    Ok(match kind {
        FileKind::Jsonl => Box::new(jsonl::JsonlReader::open(path, limit, start)?),
        FileKind::Json => Box::new(json::JsonReader::open(
            path,
            options.list_key.as_deref(),
            limit,
            start,
        )?),
        FileKind::Csv | FileKind::Tsv => {
            let default = if kind == FileKind::Csv { ',' } else { '\t' };
            let delimiter = options.delimiter.unwrap_or(default);
            let delimiter = u8::try_from(delimiter)
                .ok()
                .filter(u8::is_ascii)
                .ok_or_else(|| Error::InvalidOption {
                    option: "delimiter".into(),
                    expected: "an ASCII character",
                    got: format!("{delimiter:?}"),
                })?;
            Box::new(csv::CsvReader::open(path, delimiter, limit, start)?)
        }
        FileKind::Parquet => Box::new(columnar::ColumnarReader::parquet(path, start)?),
        FileKind::Arrow => Box::new(columnar::ColumnarReader::arrow(path, start)?),
        FileKind::Text => Box::new(text::TextReader::open(
            path,
            options.text_unit,
            limit,
            start,
        )?),
    })
}
