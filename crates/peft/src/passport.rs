//! What an adapter was trained on and with, in a file beside it.

use std::fmt;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::files::PendingFiles;

/// The file beside `adapter_config.json`.
pub const PASSPORT_FILE: &str = "flametune_passport.json";

/// The only version of the file.
const VERSION: u32 = 1;

/// What an adapter was trained on and with.
///
/// Everything but the base is optional: what is absent is not compared.
///
/// # Examples
/// ```
/// use flametune_peft::{BaseDigest, Facts, Passport};
///
/// let mut digest = BaseDigest::new();
/// digest.add("embed.weight", "F32", &[2, 1], &[0; 8]);
/// let facts = Facts {
///     base_sha256: digest.finish(),
///     quantization: Some("nf4".to_owned()),
///     ..Facts::default()
/// };
/// let passport = Passport::new(facts.clone());
/// assert!(passport.check(&facts)?.is_empty());
/// # Ok::<(), flametune_peft::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Passport {
    /// The version of the file's form.
    pub version: u32,
    /// What can be compared with what is at hand.
    #[serde(flatten)]
    pub facts: Facts,
    /// A digest of the training data, as whoever trained chose to make it.
    #[serde(default)]
    pub data_digest: Option<String>,
    /// What the adapter answered where it was trained.
    #[serde(default)]
    pub probes: Vec<Probe>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The base and what belongs to it, as digests.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Facts {
    /// The base's weights, a [`BaseDigest`].
    pub base_sha256: String,
    /// The bytes of the tokenizer's file.
    #[serde(default)]
    pub tokenizer_sha256: Option<String>,
    /// The text of the chat template.
    #[serde(default)]
    pub chat_template_sha256: Option<String>,
    /// How the base's linear layers were quantized, such as `nf4`.
    #[serde(default)]
    pub quantization: Option<String>,
}

/// A prompt, and the largest logits of the token after it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// The prompt.
    pub input_ids: Vec<u32>,
    /// The ids of the largest logits and their values, the largest first.
    pub top: Vec<(u32, f32)>,
}

/// A fact that differs and does not forbid the adapter, or that cannot be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassportWarning {
    /// The field.
    pub field: &'static str,
    /// What the passport says.
    pub expected: Option<String>,
    /// What is at hand.
    pub got: Option<String>,
}

impl fmt::Display for PassportWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".to_owned());
        let (expected, got) = (text(&self.expected), text(&self.got));
        write!(
            f,
            "{}: the passport has {expected}, here is {got}",
            self.field
        )
    }
}

impl Passport {
    /// A passport with these facts, without data digest and probes.
    pub fn new(facts: Facts) -> Self {
        Self {
            version: VERSION,
            facts,
            data_digest: None,
            probes: Vec::new(),
            extra: Map::new(),
        }
    }

    /// Reads the passport beside the adapter in `folder`, if there is one.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::InvalidJson`]; [`Error::UnsupportedOption`] for another version.
    pub fn read(folder: impl AsRef<Path>) -> Result<Option<Self>> {
        let path = folder.as_ref().join(PASSPORT_FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Io { path, source }),
        };
        let passport: Self = serde_json::from_slice(&bytes)
            .map_err(|source| Error::InvalidJson { file: path, source })?;
        if passport.version != VERSION {
            return Err(Error::UnsupportedOption {
                field: "version",
                value: passport.version.to_string(),
                hint: "passports have version 1",
            });
        }
        Ok(Some(passport))
    }

    /// Writes the passport beside the adapter in `folder`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::InvalidJson`].
    pub fn write(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        let path = folder.join(PASSPORT_FILE);
        let text = serde_json::to_string_pretty(self).map_err(|source| Error::InvalidJson {
            file: path.clone(),
            source,
        })?;
        let mut files = PendingFiles::default();
        files.write(path, text.as_bytes())?;
        files.publish(folder)
    }

    /// Compares the passport with what is at hand; what merely may matter comes back as warnings.
    ///
    /// # Errors
    /// [`Error::ForeignBase`] when the base's weights are others.
    pub fn check(&self, here: &Facts) -> Result<Vec<PassportWarning>> {
        if self.facts.base_sha256 != here.base_sha256 {
            return Err(Error::ForeignBase {
                expected: self.facts.base_sha256.clone(),
                got: here.base_sha256.clone(),
            });
        }
        let fields = [
            (
                "tokenizer_sha256",
                &self.facts.tokenizer_sha256,
                &here.tokenizer_sha256,
            ),
            (
                "chat_template_sha256",
                &self.facts.chat_template_sha256,
                &here.chat_template_sha256,
            ),
            ("quantization", &self.facts.quantization, &here.quantization),
        ];
        let differ = fields.into_iter().filter(|(_, own, here)| own != here);
        Ok(differ
            .map(|(field, own, here)| PassportWarning {
                field,
                expected: own.clone(),
                got: here.clone(),
            })
            .collect())
    }
}

/// A digest of a checkpoint's weights that reads little of them.
///
/// SHA-256 over the tensors in the order in which they are added, which is that of their names. Of
/// each tensor go in: the name, the type and the shape as text (`[2, 3]`), each with a zero byte
/// after it; the number of stored bytes as 64 bits, little-endian; and of the stored bytes the whole
/// when there are at most 4096, else 64 windows of 64 bytes, the `i`-th from byte
/// `⌊i·(bytes − 64) / 63⌋`.
///
/// Any retraining changes every window, and no change of how files are cut does; that a few numbers
/// were altered by hand between the windows is not seen.
#[derive(Debug, Clone, Default)]
pub struct BaseDigest(Sha256);

const WINDOWS: usize = 64;
const WINDOW_BYTES: usize = 64;

impl BaseDigest {
    /// A digest of nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a tensor in, as it is stored.
    pub fn add(&mut self, name: &str, dtype: &str, shape: &[usize], stored: &[u8]) {
        for text in [name, dtype, &format!("{shape:?}")] {
            self.0.update(text.as_bytes());
            self.0.update([0]);
        }
        self.0.update((stored.len() as u64).to_le_bytes());
        if stored.len() <= WINDOWS * WINDOW_BYTES {
            self.0.update(stored);
            return;
        }
        let room = stored.len() - WINDOW_BYTES;
        for window in 0..WINDOWS {
            // Divided first, so that no size overflows.
            let (whole, rest) = (room / (WINDOWS - 1), room % (WINDOWS - 1));
            let begin = window * whole + window * rest / (WINDOWS - 1);
            self.0.update(&stored[begin..begin + WINDOW_BYTES]);
        }
    }

    /// The digest in hexadecimal.
    pub fn finish(self) -> String {
        hex(&self.0.finalize())
    }
}

/// The SHA-256 of some bytes, in hexadecimal.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(stored: &[u8]) -> String {
        let mut digest = BaseDigest::new();
        digest.add("w", "F32", &[stored.len() / 4], stored);
        digest.finish()
    }

    #[test]
    fn every_window_counts_and_ends_are_in_them() {
        let bytes: Vec<u8> = (0..50_000u32).map(|i| (i % 251) as u8).collect();
        let whole = digest(&bytes);
        for at in [0, 63, bytes.len() - 64, bytes.len() - 1] {
            let mut other = bytes.clone();
            other[at] ^= 1;
            assert_ne!(digest(&other), whole, "byte {at}");
        }
        let mut between = bytes.clone();
        between[64] ^= 1;
        assert_eq!(digest(&between), whole);
        assert_ne!(digest(&bytes[..4000]), digest(&bytes[..4004]));
        // `printf x | sha256sum`
        let x = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";
        assert_eq!(sha256_hex(b"x"), x);
    }

    #[test]
    fn a_passport_comes_back_and_tells_what_differs() {
        let facts = Facts {
            base_sha256: "aa".to_owned(),
            tokenizer_sha256: Some("bb".to_owned()),
            ..Facts::default()
        };
        let mut passport = Passport::new(facts.clone());
        passport.data_digest = Some("cc".to_owned());
        passport.probes.push(Probe {
            input_ids: vec![1, 2],
            top: vec![(7, 1.5), (3, -0.25)],
        });
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Passport::read(folder.path()).unwrap(), None);
        passport.write(folder.path()).unwrap();
        let read = Passport::read(folder.path()).unwrap().unwrap();
        assert_eq!(read, passport);
        assert_eq!(read.check(&facts).unwrap(), []);
        let other = Facts {
            tokenizer_sha256: None,
            quantization: Some("nf4".to_owned()),
            ..facts.clone()
        };
        let warnings = read.check(&other).unwrap();
        let texts: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "tokenizer_sha256: the passport has bb, here is nothing",
                "quantization: the passport has nothing, here is nf4"
            ]
        );
        let foreign = Facts {
            base_sha256: "dd".to_owned(),
            ..facts
        };
        let error = read.check(&foreign).unwrap_err();
        assert!(matches!(error, Error::ForeignBase { .. }), "{error}");
        let text = fs::read_to_string(folder.path().join(PASSPORT_FILE)).unwrap();
        let newer = text.replace("\"version\": 1", "\"version\": 2");
        fs::write(folder.path().join(PASSPORT_FILE), newer).unwrap();
        let error = Passport::read(folder.path()).unwrap_err();
        assert!(error.to_string().starts_with("version = 2"), "{error}");
    }
}
