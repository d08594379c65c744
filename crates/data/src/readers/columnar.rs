//! Parquet and Arrow files, read batch by batch.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::error::ArrowError;
use arrow::ipc::reader::{FileReader, StreamReader};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Map;

use super::cell::{cell, is_readable};
use super::record::{LeftOut, Location, Record};
use crate::error::{Error, Result};

/// Rows that are decoded at a time.
const BATCH_ROWS: usize = 128;

type Batches = Box<dyn Iterator<Item = std::result::Result<RecordBatch, ArrowError>> + Send>;

/// Reads one record a row, one batch at a time.
pub(super) struct ColumnarReader {
    file: Arc<Path>,
    kind: &'static str,
    batches: Batches,
    batch: Option<RecordBatch>,
    index: usize,
    records: u64,
    left_out: Arc<[LeftOut]>,
    ended: bool,
}

impl ColumnarReader {
    /// Opens a Parquet file after the first `start` rows, which are not decoded.
    pub(super) fn parquet(path: &Path, start: u64) -> Result<Self> {
        let kind = "Parquet";
        let file = open(path)?;
        let (batches, left_out) = guarded(path, kind, 0, || {
            let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
            let (columns, left_out) = split_columns(builder.schema());
            let mask = ProjectionMask::roots(builder.parquet_schema(), columns);
            let offset = usize::try_from(start).unwrap_or(usize::MAX);
            let reader = builder
                .with_projection(mask)
                .with_batch_size(BATCH_ROWS)
                .with_offset(offset)
                .build()?;
            Ok((Box::new(reader) as Batches, left_out))
        })?;
        Ok(Self {
            file: Arc::from(path),
            kind,
            batches,
            batch: None,
            index: 0,
            records: start,
            left_out: left_out.into(),
            ended: false,
        })
    }

    /// Opens an Arrow file or stream after the first `start` rows.
    pub(super) fn arrow(path: &Path, start: u64) -> Result<Self> {
        let kind = "Arrow";
        let mut file = open(path)?;
        let (batches, left_out) = guarded(path, kind, 0, || {
            let mut magic = [0; 6];
            let is_file = file.read_exact(&mut magic).is_ok() && magic == *b"ARROW1";
            file.rewind()?;
            let input = BufReader::new(file);
            if is_file {
                let schema = FileReader::try_new(input, None)?;
                let (columns, left_out) = split_columns(&schema.schema());
                // The file is opened again to read only the columns that are wanted.
                let reader = FileReader::try_new(BufReader::new(File::open(path)?), Some(columns))?;
                Ok((Box::new(reader) as Batches, left_out))
            } else {
                let reader = StreamReader::try_new(input, None)?;
                let (_, left_out) = split_columns(&reader.schema());
                Ok((Box::new(reader) as Batches, left_out))
            }
        })?;
        let mut reader = Self {
            file: Arc::from(path),
            kind,
            batches,
            batch: None,
            index: 0,
            records: 0,
            left_out: left_out.into(),
            ended: false,
        };
        while reader.records < start {
            if !reader.fill()? {
                break;
            }
            let rows = reader.batch.as_ref().map_or(0, RecordBatch::num_rows);
            let left = start - reader.records;
            let passed = rows.min(usize::try_from(left).unwrap_or(usize::MAX));
            reader.index = passed;
            reader.records += passed as u64;
        }
        Ok(reader)
    }

    /// Makes sure that a batch with an unread row is at hand; false at the end.
    fn fill(&mut self) -> Result<bool> {
        while self
            .batch
            .as_ref()
            .is_none_or(|batch| self.index >= batch.num_rows())
        {
            let batches = &mut self.batches;
            let next = guarded(&self.file, self.kind, self.records, || {
                batches.next().transpose().map_err(Into::into)
            })?;
            if next.is_none() {
                return Ok(false);
            }
            self.batch = next;
            self.index = 0;
        }
        Ok(true)
    }

    fn read(&mut self) -> Result<Option<Record>> {
        if !self.fill()? {
            return Ok(None);
        }
        let Some(batch) = &self.batch else {
            return Ok(None);
        };
        let (index, schema) = (self.index, batch.schema());
        let row = guarded(&self.file, self.kind, self.records, || {
            let mut row = Map::with_capacity(batch.num_columns());
            for (field, column) in schema.fields().iter().zip(batch.columns()) {
                if is_readable(field.data_type()) {
                    row.insert(field.name().clone(), cell(column, index)?);
                }
            }
            Ok(row)
        })?;
        self.index += 1;
        self.records += 1;
        Ok(Some(Record {
            row,
            at: Location {
                file: Arc::clone(&self.file),
                record: self.records,
                line: None,
            },
            left_out: Arc::clone(&self.left_out),
        }))
    }
}

impl Iterator for ColumnarReader {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let result = self.read();
        self.ended = !matches!(result, Ok(Some(_)));
        result.transpose()
    }
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|source| Error::Io {
        path: path.to_owned(),
        source,
    })
}

/// Positions of the columns that are read, and the others.
fn split_columns(schema: &Schema) -> (Vec<usize>, Vec<LeftOut>) {
    let (mut read, mut left_out) = (Vec::new(), Vec::new());
    for (index, field) in schema.fields().iter().enumerate() {
        if is_readable(field.data_type()) {
            read.push(index);
        } else {
            left_out.push(LeftOut {
                column: field.name().clone(),
                kind: field.data_type().to_string(),
            });
        }
    }
    (read, left_out)
}

/// Runs a reader of a binary format, whose code is not ours: what goes wrong in it, panics included, is damage.
fn guarded<T>(
    path: &Path,
    kind: &'static str,
    records: u64,
    read: impl FnOnce() -> std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>,
) -> Result<T> {
    let reason = match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "its parts contradict each other".to_owned(),
    };
    Err(Error::DamagedFile {
        file: path.display().to_string(),
        kind,
        records,
        reason,
    })
}
