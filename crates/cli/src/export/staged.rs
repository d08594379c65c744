//! A folder that appears under its name only when it is whole.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// A folder written beside its target.
///
/// Dropped before [`publish`](Self::publish), it disappears again.
#[derive(Debug)]
pub(super) struct StagedFolder {
    target: PathBuf,
    temporary: PathBuf,
    published: bool,
}

impl StagedFolder {
    /// Makes an empty folder beside `target`, which must not be there or be empty.
    pub(super) fn new(target: &Path) -> Result<Self> {
        if let Ok(mut entries) = fs::read_dir(target)
            && entries.next().is_some()
        {
            bail!("the output folder {} is not empty", target.display());
        }
        if target.is_file() {
            bail!("the output {} is a file", target.display());
        }
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let temporary = target.with_file_name(format!(".{name}.partial"));
        if temporary.exists() {
            fs::remove_dir_all(&temporary)
                .with_context(|| format!("cannot remove {}", temporary.display()))?;
        }
        fs::create_dir_all(&temporary)
            .with_context(|| format!("cannot create {}", temporary.display()))?;
        Ok(Self {
            target: target.to_owned(),
            temporary,
            published: false,
        })
    }

    /// Where the folder is now.
    pub(super) fn path(&self) -> &Path {
        &self.temporary
    }

    /// Gives the folder its name.
    pub(super) fn publish(mut self) -> Result<()> {
        if self.target.is_dir() {
            fs::remove_dir(&self.target)
                .with_context(|| format!("cannot replace {}", self.target.display()))?;
        }
        fs::rename(&self.temporary, &self.target)
            .with_context(|| format!("cannot write {}", self.target.display()))?;
        self.published = true;
        Ok(())
    }
}

impl Drop for StagedFolder {
    fn drop(&mut self) {
        if !self.published {
            // What cannot be removed stays under a name that nobody reads.
            let _ = fs::remove_dir_all(&self.temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_whole_or_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        let staged = StagedFolder::new(&target).unwrap();
        fs::write(staged.path().join("a"), "1").unwrap();
        drop(staged);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let staged = StagedFolder::new(&target).unwrap();
        fs::write(staged.path().join("a"), "1").unwrap();
        staged.publish().unwrap();
        assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "1");
        assert!(StagedFolder::new(&target).is_err());
    }
}
