//! A file seen as a slice of bytes, without reading it first.

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;

use memmap2::Mmap;
#[cfg(unix)]
use memmap2::UncheckedAdvice;

/// A file mapped read-only into memory.
///
/// Pages are read when they are first touched and belong to the operating system's cache, so a
/// checkpoint of many gigabytes costs no memory of its own until its bytes are used.
///
/// The file must not be changed while it is mapped: a reader would see the change, and a file
/// that is cut short ends the process at the next access beyond its new end.
/// Replace such files by writing a new one and renaming it.
#[derive(Debug)]
pub struct MappedFile {
    map: Mmap,
}

impl MappedFile {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// What the operating system says: no such file, no permission, a folder, no address space.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let file = File::open(path)?;
        if file.metadata()?.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        #[allow(
            unsafe_code,
            reason = "mapping a file is unsafe because others may change it"
        )]
        // SAFETY: the map is private to this value and read-only; the one remaining condition,
        // that nobody changes the file while it is mapped, is part of this type's contract.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self { map })
    }

    /// Tells the operating system that the bytes in `range` are not needed for now.
    ///
    /// Their pages stop counting as memory of this process; the bytes stay readable, and are
    /// fetched from the file again when they are. Whoever copies a file piece by piece keeps the
    /// process small with it. Does nothing where the system has no such call, and for a range
    /// outside the file.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if self
            .map
            .get(range.clone())
            .is_some_and(|bytes| !bytes.is_empty())
        {
            #[allow(
                unsafe_code,
                reason = "the call is unsafe because it may discard what a program wrote"
            )]
            // SAFETY: the range lies in the map, and a read-only map of a file holds nothing that
            // the file does not: a page that is given up reads the same when it comes back.
            let released = unsafe {
                self.map
                    .unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len())
            };
            // Advice that is not taken changes nothing.
            let _ = released;
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_equal_the_file() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let mapped = MappedFile::open(&path).unwrap();
        assert_eq!(&mapped[..], std::fs::read(&path).unwrap());
    }

    #[test]
    fn released_bytes_read_the_same_again() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/mmap.rs");
        let mapped = MappedFile::open(&path).unwrap();
        let expected = std::fs::read(&path).unwrap();
        for range in [0..expected.len(), 3..7, 5..5, 0..usize::MAX] {
            assert!(mapped.starts_with(b"//! A file"));
            mapped.release(range);
            assert_eq!(&mapped[..], expected);
        }
    }

    #[test]
    fn a_missing_file_and_a_folder_are_errors() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let missing = MappedFile::open(folder.join("no such file")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        let directory = MappedFile::open(folder).unwrap_err();
        assert_eq!(directory.kind(), io::ErrorKind::IsADirectory);
    }
}
