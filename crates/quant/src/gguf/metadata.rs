//! The key–value pairs of a GGUF file and typed access to them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

use super::cursor::{Cursor, Subject};
use super::value::{Array, Value, read_value};
use crate::error::{Error, Result};

/// The fewest bytes of a pair: an empty key, a type and a one-byte value.
const MIN_PAIR_BYTES: usize = 8 + 4 + 1;

/// The key–value pairs of a GGUF file.
///
/// # Examples
/// ```
/// use flametune_quant::gguf::{Metadata, Value};
///
/// let metadata = Metadata::new("m.gguf", [("llama.block_count", Value::U32(30))])?;
/// assert_eq!(metadata.require::<usize>("llama.block_count")?, 30);
/// assert_eq!(metadata.get::<&str>("general.name")?, None);
/// assert_eq!(
///     metadata.require::<&str>("llama.block_count").unwrap_err().to_string(),
///     "m.gguf: key `llama.block_count` must be a string, got u32 30",
/// );
/// # Ok::<(), flametune_quant::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Metadata {
    file: PathBuf,
    pairs: BTreeMap<String, Value>,
}

impl Metadata {
    /// Metadata from pairs in memory; `file` serves the error messages.
    ///
    /// # Errors
    /// [`Error::DuplicateKey`]
    pub fn new<K: Into<String>>(
        file: impl Into<PathBuf>,
        pairs: impl IntoIterator<Item = (K, Value)>,
    ) -> Result<Self> {
        let mut metadata = Self {
            file: file.into(),
            pairs: BTreeMap::new(),
        };
        for (key, value) in pairs {
            metadata.insert(key.into(), value)?;
        }
        Ok(metadata)
    }

    pub(super) fn read(cursor: &mut Cursor<'_>, count: usize) -> Result<Self> {
        let mut metadata = Self {
            file: cursor.file().to_owned(),
            pairs: BTreeMap::new(),
        };
        for index in 0..count {
            cursor.set_subject(Subject::PairName(index));
            let key = cursor.string()?;
            cursor.set_subject(Subject::Pair(key));
            let value = read_value(cursor, key)?;
            metadata.insert(key.to_owned(), value)?;
        }
        Ok(metadata)
    }

    pub(super) const fn min_pair_bytes() -> usize {
        MIN_PAIR_BYTES
    }

    fn insert(&mut self, key: String, value: Value) -> Result<()> {
        match self.pairs.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(value);
                Ok(())
            }
            Entry::Occupied(entry) => Err(Error::DuplicateKey {
                file: self.file.clone(),
                key: entry.key().clone(),
            }),
        }
    }

    /// The file that the pairs come from.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// All pairs, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.pairs.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The value of `key` as it stands in the file.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.pairs.get(key)
    }

    /// The value of `key` as a `T`, or `None` when there is no such key.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] when the value is of another type or out of the range of `T`
    pub fn get<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>> {
        let Some(value) = self.pairs.get(key) else {
            return Ok(None);
        };
        match T::from_value(value) {
            Some(value) => Ok(Some(value)),
            None => Err(self.invalid(key, T::EXPECTED, value)),
        }
    }

    /// The value of `key` as a `T`.
    ///
    /// # Errors
    /// - [`Error::MissingKey`] when there is no such key
    /// - [`Error::InvalidValue`] when the value is of another type or out of the range of `T`
    pub fn require<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T> {
        self.get(key)?.ok_or_else(|| Error::MissingKey {
            file: self.file.clone(),
            key: key.to_owned(),
        })
    }

    /// The error that says what `key` must be and what it is.
    pub fn invalid(
        &self,
        key: &str,
        expected: impl Into<String>,
        got: impl std::fmt::Display,
    ) -> Error {
        Error::InvalidValue {
            file: self.file.clone(),
            key: key.to_owned(),
            expected: expected.into(),
            got: got.to_string(),
        }
    }
}

/// A Rust type that a metadata value can be read as.
pub trait FromValue<'a>: Sized {
    /// What the value must be, for error messages.
    const EXPECTED: &'static str;

    /// The value as this type, or `None` when it is of another type or out of range.
    fn from_value(value: &'a Value) -> Option<Self>;
}

macro_rules! integers_from_value {
    ($($integer:ty, $expected:literal;)+) => {
        $(
            /// Any integer type of the file will do, as long as the value is in range.
            impl FromValue<'_> for $integer {
                const EXPECTED: &'static str = $expected;

                fn from_value(value: &Value) -> Option<Self> {
                    match *value {
                        Value::U8(value) => value.try_into().ok(),
                        Value::I8(value) => value.try_into().ok(),
                        Value::U16(value) => value.try_into().ok(),
                        Value::I16(value) => value.try_into().ok(),
                        Value::U32(value) => value.try_into().ok(),
                        Value::I32(value) => value.try_into().ok(),
                        Value::U64(value) => value.try_into().ok(),
                        Value::I64(value) => value.try_into().ok(),
                        _ => None,
                    }
                }
            }
        )+
    };
}
integers_from_value! {
    u32, "an integer from 0 to 4294967295";
    usize, "a non-negative integer";
    i64, "an integer";
}

/// A number of either precision.
impl FromValue<'_> for f64 {
    const EXPECTED: &'static str = "a floating-point number";

    fn from_value(value: &Value) -> Option<Self> {
        match *value {
            Value::F32(value) => Some(value.into()),
            Value::F64(value) => Some(value),
            _ => None,
        }
    }
}

impl FromValue<'_> for bool {
    const EXPECTED: &'static str = "a bool";

    fn from_value(value: &Value) -> Option<Self> {
        match *value {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for &'a str {
    const EXPECTED: &'static str = "a string";

    fn from_value(value: &'a Value) -> Option<Self> {
        match value {
            Value::String(value) => Some(value),
            _ => None,
        }
    }
}

macro_rules! slices_from_value {
    ($($item:ty, $variant:ident, $expected:literal;)+) => {
        $(impl<'a> FromValue<'a> for &'a [$item] {
            const EXPECTED: &'static str = $expected;

            fn from_value(value: &'a Value) -> Option<Self> {
                match value {
                    Value::Array(Array::$variant(items)) => Some(items),
                    _ => None,
                }
            }
        })+
    };
}
slices_from_value! {
    String, String, "an array of string";
    f32, F32, "an array of f32";
    i32, I32, "an array of i32";
    u32, U32, "an array of u32";
    bool, Bool, "an array of bool";
}

impl<'a> FromValue<'a> for &'a Array {
    const EXPECTED: &'static str = "an array";

    fn from_value(value: &'a Value) -> Option<Self> {
        match value {
            Value::Array(array) => Some(array),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> Metadata {
        Metadata::new(
            "m.gguf",
            [
                ("negative", Value::I8(-1)),
                ("large", Value::U64(1 << 40)),
                ("half", Value::F64(0.5)),
                (
                    "names",
                    Value::Array(Array::String(vec!["a".into(), "b".into()])),
                ),
            ],
        )
        .unwrap()
    }

    #[test]
    fn integers_convert_when_in_range() {
        let metadata = metadata();
        assert_eq!(metadata.require::<i64>("negative").unwrap(), -1);
        assert_eq!(metadata.require::<usize>("large").unwrap(), 1 << 40);
        assert_eq!(
            metadata.require::<u32>("large").unwrap_err().to_string(),
            "m.gguf: key `large` must be an integer from 0 to 4294967295, got u64 1099511627776"
        );
        assert_eq!(
            metadata
                .require::<usize>("negative")
                .unwrap_err()
                .to_string(),
            "m.gguf: key `negative` must be a non-negative integer, got i8 -1"
        );
    }

    #[test]
    fn arrays_are_lent() {
        let metadata = metadata();
        assert_eq!(metadata.require::<&[String]>("names").unwrap(), ["a", "b"]);
        assert_eq!(metadata.require::<&Array>("names").unwrap().len(), 2);
        assert_eq!(
            metadata.get::<&[f32]>("names").unwrap_err().to_string(),
            "m.gguf: key `names` must be an array of f32, got array of 2 string"
        );
    }

    #[test]
    fn absent_keys_are_none_or_missing() {
        let metadata = metadata();
        assert_eq!(metadata.get::<bool>("no").unwrap(), None);
        assert_eq!(
            metadata.require::<bool>("no").unwrap_err().to_string(),
            "m.gguf: key `no` is missing"
        );
    }

    #[test]
    fn a_key_may_stand_there_once() {
        let error =
            Metadata::new("m.gguf", [("a", Value::U8(1)), ("a", Value::U8(1))]).unwrap_err();
        assert_eq!(error.to_string(), "m.gguf: key `a` stands there twice");
    }
}
