//! A file that appears under its name only when it is whole.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A file written under a temporary name beside its target.
///
/// Dropped before [`publish`](Self::publish), it disappears again.
#[derive(Debug)]
pub(crate) struct PartialFile {
    target: PathBuf,
    temporary: PathBuf,
    /// `None` once everything is on the disk.
    writer: Option<BufWriter<File>>,
    published: bool,
}

impl PartialFile {
    /// Starts writing; the temporary file is `.NAME.partial` in the same folder.
    pub(crate) fn create(target: PathBuf) -> Result<Self> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let temporary = target.with_file_name(format!(".{name}.partial"));
        let file = File::create(&temporary).map_err(|source| Error::Io {
            path: temporary.clone(),
            source,
        })?;
        let writer = Some(BufWriter::new(file));
        Ok(Self {
            target,
            temporary,
            writer,
            published: false,
        })
    }

    /// The name the file will have.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Appends bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.writer {
            Some(writer) => writer.write_all(bytes).map_err(|source| self.io(source)),
            None => Ok(()),
        }
    }

    /// Brings everything to the disk and closes the file.
    pub(crate) fn finish(mut self) -> Result<Self> {
        if let Some(writer) = self.writer.take() {
            let synced = writer
                .into_inner()
                .map_err(std::io::IntoInnerError::into_error)
                .and_then(|file| file.sync_all());
            synced.map_err(|source| self.io(source))?;
        }
        Ok(self)
    }

    /// Renames the finished file to its target, replacing what was there.
    pub(crate) fn publish(mut self) -> Result<()> {
        fs::rename(&self.temporary, &self.target).map_err(|source| Error::Io {
            path: self.target.clone(),
            source,
        })?;
        self.published = true;
        Ok(())
    }

    fn io(&self, source: std::io::Error) -> Error {
        Error::Io {
            path: self.temporary.clone(),
            source,
        }
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if !self.published {
            drop(self.writer.take());
            if let Err(error) = fs::remove_file(&self.temporary) {
                log::warn!("{}: {error}", self.temporary.display());
            }
        }
    }
}
