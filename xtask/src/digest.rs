//! Size and SHA-256 of files.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest as _, Sha256};

/// Size and SHA-256 of one file's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Digest {
    /// Length of the content.
    pub(crate) bytes: u64,
    /// 64 lower-case hexadecimal digits.
    pub(crate) sha256: String,
}

impl Digest {
    /// Reads the file once, in pieces.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut hasher = Sha256::new();
        let mut bytes = 0;
        let mut piece = vec![0; 1 << 18];
        loop {
            let read = file.read(&mut piece)?;
            if read == 0 {
                break;
            }
            hasher.update(&piece[..read]);
            bytes += read as u64;
        }
        let mut sha256 = String::with_capacity(64);
        for byte in hasher.finalize() {
            // Writing to a string cannot fail.
            let _ = write!(sha256, "{byte:02x}");
        }
        Ok(Self { bytes, sha256 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_matches_the_published_vector_for_abc() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        let digest = Digest::of(&path).unwrap();
        assert_eq!(digest.bytes, 3);
        // FIPS 180-2, appendix B.1.
        assert_eq!(
            digest.sha256,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
