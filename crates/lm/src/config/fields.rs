//! Typed access to the fields of a `config.json`, with errors that name the field.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::checkpoint::PartialFile;
use crate::error::{Error, Result};

/// A `config.json` as it stands on disk: every key is kept, known or not.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigFile {
    path: PathBuf,
    map: Map<String, Value>,
}

impl ConfigFile {
    /// Reads `config.json` of a model folder.
    ///
    /// # Errors
    /// When the file cannot be read, is not JSON, or is not an object.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let text = fs::read_to_string(&path).map_err(|source| Error::Io {
            path: path.clone(),
            source,
        })?;
        let value: Value = serde_json::from_str(&text).map_err(|source| Error::InvalidJson {
            file: path.clone(),
            source,
        })?;
        Self::from_value(value, path)
    }

    /// Takes a configuration that is already in memory; `path` serves the error messages.
    ///
    /// # Errors
    /// When the value is not a JSON object.
    pub fn from_value(value: Value, path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        match value {
            Value::Object(map) => Ok(Self { path, map }),
            other => Err(Error::InvalidConfig {
                file: path,
                field: String::from("<root>"),
                reason: format!("must be a JSON object, got {}", kind(&other)),
            }),
        }
    }

    /// The file that this configuration came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every key as read, for writing the file again without loss.
    pub fn raw(&self) -> &Map<String, Value> {
        &self.map
    }

    /// Writes `config.json` into `folder` under a temporary name; the caller publishes it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn write(&self, folder: &Path) -> Result<PartialFile> {
        let target = folder.join("config.json");
        let text =
            serde_json::to_string_pretty(&self.map).map_err(|source| Error::InvalidJson {
                file: target.clone(),
                source,
            })?;
        let mut file = PartialFile::create(target)?;
        file.write(text.as_bytes())?;
        file.write(b"\n")?;
        file.finish()
    }

    /// The configuration of an object nested under `field`, if there is one.
    pub(crate) fn nested(&self, field: &str) -> Option<Self> {
        let map = self.map.get(field)?.as_object()?.clone();
        Some(Self {
            path: self.path.clone(),
            map,
        })
    }

    pub(crate) fn invalid(&self, field: &str, reason: impl Into<String>) -> Error {
        Error::InvalidConfig {
            file: self.path.clone(),
            field: field.to_owned(),
            reason: reason.into(),
        }
    }

    pub(crate) fn unsupported(field: &str, value: &str, hint: &str) -> Error {
        Error::UnsupportedOption {
            field: field.to_owned(),
            value: value.to_owned(),
            hint: hint.to_owned(),
        }
    }

    /// The value of `field`; JSON `null` counts as absent.
    pub(crate) fn get(&self, field: &str) -> Option<&Value> {
        self.map.get(field).filter(|value| !value.is_null())
    }

    fn typed<'a, T>(
        &'a self,
        field: &str,
        expected: &str,
        convert: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        self.get(field)
            .map(|value| {
                convert(value)
                    .ok_or_else(|| self.invalid(field, format!("must be {expected}, got {value}")))
            })
            .transpose()
    }

    pub(crate) fn opt_usize(&self, field: &str) -> Result<Option<usize>> {
        self.typed(field, "a non-negative integer", |value| {
            value
                .as_u64()
                .and_then(|number| usize::try_from(number).ok())
        })
    }

    /// A positive integer that must be there.
    pub(crate) fn usize(&self, field: &str) -> Result<usize> {
        let number = self
            .opt_usize(field)?
            .ok_or_else(|| self.invalid(field, "is missing"))?;
        self.positive(field, number)
    }

    /// A positive integer with a default.
    pub(crate) fn usize_or(&self, field: &str, default: usize) -> Result<usize> {
        self.positive(field, self.opt_usize(field)?.unwrap_or(default))
    }

    fn positive(&self, field: &str, number: usize) -> Result<usize> {
        /// No dimension of a model comes near this; it keeps products of two within `usize`.
        const LIMIT: usize = 1 << 30;
        if number == 0 || number > LIMIT {
            return Err(self.invalid(
                field,
                format!("must be between 1 and {LIMIT}, got {number}"),
            ));
        }
        Ok(number)
    }

    pub(crate) fn opt_f64(&self, field: &str) -> Result<Option<f64>> {
        self.typed(field, "a finite number", |value| {
            value.as_f64().filter(|number| number.is_finite())
        })
    }

    pub(crate) fn f64_or(&self, field: &str, default: f64) -> Result<f64> {
        Ok(self.opt_f64(field)?.unwrap_or(default))
    }

    pub(crate) fn f64(&self, field: &str) -> Result<f64> {
        self.opt_f64(field)?
            .ok_or_else(|| self.invalid(field, "is missing"))
    }

    pub(crate) fn bool_or(&self, field: &str, default: bool) -> Result<bool> {
        Ok(self
            .typed(field, "true or false", Value::as_bool)?
            .unwrap_or(default))
    }

    pub(crate) fn opt_str(&self, field: &str) -> Result<Option<&str>> {
        self.typed(field, "a string", Value::as_str)
    }

    pub(crate) fn opt_array(&self, field: &str) -> Result<Option<&Vec<Value>>> {
        self.typed(field, "a list", Value::as_array)
    }

    /// A list of finite numbers that must be there.
    pub(crate) fn f64_list(&self, field: &str) -> Result<Vec<f64>> {
        let list = self
            .opt_array(field)?
            .ok_or_else(|| self.invalid(field, "is missing"))?;
        list.iter()
            .map(|value| {
                value
                    .as_f64()
                    .filter(|number| number.is_finite())
                    .ok_or_else(|| {
                        self.invalid(field, format!("must hold finite numbers, got {value}"))
                    })
            })
            .collect()
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(value: Value) -> ConfigFile {
        ConfigFile::from_value(value, "config.json").unwrap()
    }

    #[test]
    fn errors_name_file_field_and_value() {
        let file = config(json!({"hidden_size": "64", "layers": 0, "eps": null}));
        assert_eq!(
            file.usize("hidden_size").unwrap_err().to_string(),
            r#"config.json: hidden_size must be a non-negative integer, got "64""#
        );
        assert_eq!(
            file.usize("layers").unwrap_err().to_string(),
            "config.json: layers must be between 1 and 1073741824, got 0"
        );
        assert_eq!(
            file.usize("vocab_size").unwrap_err().to_string(),
            "config.json: vocab_size is missing"
        );
        assert_eq!(file.f64_or("eps", 1e-5).unwrap(), 1e-5);
    }

    #[test]
    fn a_config_that_is_not_an_object_is_refused() {
        let error = ConfigFile::from_value(json!([1]), "config.json").unwrap_err();
        assert_eq!(
            error.to_string(),
            "config.json: <root> must be a JSON object, got a list"
        );
    }
}
