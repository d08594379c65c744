//! Files that appear together, and only when all of them are whole.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}

/// Files under temporary names; those that are not published disappear again.
#[derive(Debug, Default)]
pub(crate) struct PendingFiles {
    files: Vec<(PathBuf, PathBuf)>,
}

impl PendingFiles {
    /// Writes a file under a temporary name beside its target, and brings it to the disk.
    pub(crate) fn write(&mut self, target: PathBuf, bytes: &[u8]) -> Result<()> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let temporary = target.with_file_name(format!(".{name}.partial"));
        self.files.push((temporary.clone(), target));
        let mut file = File::create(&temporary).map_err(io(&temporary))?;
        file.write_all(bytes)
            .and_then(|()| file.sync_all())
            .map_err(io(&temporary))
    }

    /// Renames all files to their targets, in the order in which they were written.
    pub(crate) fn publish(mut self, folder: &Path) -> Result<()> {
        for (temporary, target) in std::mem::take(&mut self.files) {
            fs::rename(&temporary, &target).map_err(io(&target))?;
        }
        if cfg!(unix) {
            File::open(folder)
                .and_then(|folder| folder.sync_all())
                .map_err(io(folder))?;
        }
        Ok(())
    }
}

impl Drop for PendingFiles {
    fn drop(&mut self) {
        for (temporary, _) in &self.files {
            // What was never created cannot be removed, and the first error is the one to report.
            let _ = fs::remove_file(temporary);
        }
    }
}
