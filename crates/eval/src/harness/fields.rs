//! Reading the fields of a task one by one, with errors that say where.

use serde_json::{Map, Value};

use super::yaml::TaskFile;
use crate::error::{Error, Result};
use crate::python::python_repr;

/// The fields of a task that nobody has read yet.
pub(crate) struct Fields<'f> {
    file: &'f TaskFile,
    task: String,
    left: Map<String, Value>,
}

impl<'f> Fields<'f> {
    pub(crate) fn new(file: &'f TaskFile) -> Self {
        let mut left = file.fields.clone();
        let task = match left.remove("task") {
            Some(Value::String(task)) => task,
            _ => String::from("(unnamed)"),
        };
        Self { file, task, left }
    }

    pub(crate) fn task(&self) -> &str {
        &self.task
    }

    /// Takes a field out; null counts as absent.
    pub(crate) fn take(&mut self, field: &str) -> Option<Value> {
        self.left.remove(field).filter(|value| !value.is_null())
    }

    pub(crate) fn text(&mut self, field: &str) -> Result<Option<String>> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::String(text)) => {
                let value = Value::String(text);
                self.refuse_function(field, &value)?;
                Ok(value.as_str().map(str::to_owned))
            }
            Some(other) => Err(self.invalid(field, "text", &other)),
        }
    }

    pub(crate) fn count(&mut self, field: &str) -> Result<Option<usize>> {
        match self.take(field) {
            None => Ok(None),
            Some(value) => {
                let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
                count
                    .map(Some)
                    .ok_or_else(|| self.invalid(field, "a whole number of at least 0", &value))
            }
        }
    }

    /// A mapping; empty when absent.
    pub(crate) fn mapping(&mut self, field: &str) -> Result<Map<String, Value>> {
        match self.take(field) {
            None => Ok(Map::new()),
            Some(Value::Object(map)) => Ok(map),
            Some(other) => Err(self.invalid(field, "a mapping", &other)),
        }
    }

    /// A list of mappings; `None` when absent.
    pub(crate) fn mappings(&mut self, field: &str) -> Result<Option<Vec<Map<String, Value>>>> {
        let Some(value) = self.take(field) else {
            return Ok(None);
        };
        let rows = value
            .as_array()
            .and_then(|list| list.iter().map(|item| item.as_object().cloned()).collect());
        match rows {
            Some(rows) => Ok(Some(rows)),
            None => Err(self.invalid(field, "a list of mappings", &value)),
        }
    }

    pub(crate) fn missing(&self, field: &str) -> Error {
        Error::MissingField {
            at: Box::new(self.file.place(&self.task, field)),
            field: field.to_owned(),
        }
    }

    pub(crate) fn invalid(&self, field: &str, expected: &str, got: &Value) -> Error {
        Error::InvalidField {
            at: self.at(field),
            field: field.to_owned(),
            expected: expected.to_owned(),
            got: shown(got),
        }
    }

    pub(crate) fn unsupported(&self, field: &str, value: &Value, hint: &str) -> Error {
        Error::UnsupportedOption {
            at: self.at(field),
            field: field.to_owned(),
            value: shown(value),
            hint: hint.to_owned(),
        }
    }

    /// A Python function where text is expected.
    pub(crate) fn refuse_function(&self, field: &str, value: &Value) -> Result<()> {
        match value.as_str() {
            Some(text) if text.starts_with("!function ") => {
                Err(self.unsupported(field, value, "Python is not run; write it as a template"))
            }
            _ => Ok(()),
        }
    }

    /// Refuses what is left.
    pub(crate) fn finish(&self) -> Result<()> {
        match self.left.iter().find(|(_, value)| !value.is_null()) {
            None => Ok(()),
            Some((field, value)) => Err(self.unsupported(field, value, "it is no field of a task")),
        }
    }

    fn at(&self, field: &str) -> Box<crate::error::Place> {
        let top = field.split(['.', '[']).next().unwrap_or(field);
        Box::new(self.file.place(&self.task, top))
    }
}

/// A value as an error shows it: cut at 80 characters.
pub(crate) fn shown(value: &Value) -> String {
    let text = python_repr(value);
    if text.chars().count() <= 80 {
        text
    } else {
        text.chars().take(79).chain(['…']).collect()
    }
}
