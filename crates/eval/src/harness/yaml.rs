//! Task files: YAML with `include`, and where each field stands.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, Place, Result};

/// Where files come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A file on disk.
    File(PathBuf),
    /// A file that comes with the crate, by its name.
    Builtin(&'static str),
}

impl Origin {
    pub(crate) fn label(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Builtin(name) => (*name).to_owned(),
        }
    }

    /// The folder that paths in the file are relative to.
    pub(crate) fn folder(&self) -> Option<&Path> {
        match self {
            Self::File(path) => path.parent(),
            Self::Builtin(_) => None,
        }
    }
}

/// A task file with what it includes, and for each field the file and line that set it.
#[derive(Debug, Clone)]
pub(crate) struct TaskFile {
    pub(crate) origin: Origin,
    pub(crate) fields: Map<String, Value>,
    lines: BTreeMap<String, (String, usize)>,
}

impl TaskFile {
    /// Reads a file and everything it includes; its own fields win.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        Self::parse(Origin::File(path.to_owned()), &text, &mut Vec::new())
    }

    /// Parses a file that comes with the crate.
    pub(crate) fn builtin(name: &'static str, text: &str) -> Result<Self> {
        Self::parse(Origin::Builtin(name), text, &mut Vec::new())
    }

    fn parse(origin: Origin, text: &str, open: &mut Vec<String>) -> Result<Self> {
        let label = origin.label();
        if open.contains(&label) {
            return Err(Error::IncludeCycle {
                file: label,
                through: open.clone(),
            });
        }
        open.push(label.clone());
        let mut own = mapping(&label, text)?;
        let mut file = Self {
            origin,
            fields: Map::new(),
            lines: BTreeMap::new(),
        };
        for included in includes(&label, own.remove("include"))? {
            let other = file.include(&included, open)?;
            file.merge(other);
        }
        for (field, value) in own {
            file.lines
                .insert(field.clone(), (label.clone(), line_of(text, &field)));
            file.fields.insert(field, value);
        }
        open.pop();
        Ok(file)
    }

    fn include(&self, included: &str, open: &mut Vec<String>) -> Result<Self> {
        match &self.origin {
            Origin::File(path) => {
                let path = path.parent().unwrap_or(Path::new(".")).join(included);
                let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
                Self::parse(Origin::File(path), &text, open)
            }
            Origin::Builtin(_) => {
                let (name, text) = super::builtin::file(included).ok_or_else(|| Error::Io {
                    path: included.into(),
                    source: std::io::ErrorKind::NotFound.into(),
                })?;
                Self::parse(Origin::Builtin(name), text, open)
            }
        }
    }

    /// Takes over the fields of an included file, later ones over earlier ones.
    fn merge(&mut self, mut other: Self) {
        // A list of tasks defines them for its own file only.
        other.fields.remove("task_list");
        for (field, value) in other.fields {
            self.fields.insert(field, value);
        }
        self.lines.append(&mut other.lines);
    }

    /// The same file with fields set from elsewhere, such as a group's list of tasks.
    pub(crate) fn with_overrides(&self, overrides: &Map<String, Value>) -> Self {
        let mut file = self.clone();
        for (field, value) in overrides {
            file.fields.insert(field.clone(), value.clone());
        }
        file
    }

    /// Where a field of a task stands.
    pub(crate) fn place(&self, task: &str, field: &str) -> Place {
        let (file, line) = match self.lines.get(field) {
            Some((file, line)) => (file.clone(), Some(*line)),
            None => (self.origin.label(), None),
        };
        Place {
            task: task.to_owned(),
            file,
            line,
            ..Place::default()
        }
    }
}

/// Parses YAML to a mapping; Python functions become text that begins with `!function `.
fn mapping(label: &str, text: &str) -> Result<Map<String, Value>> {
    let quoted = quote_functions(text);
    let options = serde_saphyr::options! { with_snippet: false };
    let value: Value = serde_saphyr::from_str_with_options(&quoted, options).map_err(|error| {
        let location = error.location();
        let reason = error.to_string();
        Error::Yaml {
            file: label.to_owned(),
            line: location.as_ref().map_or(1, |at| at.line()),
            column: location.as_ref().map_or(1, |at| at.column()),
            reason: reason.lines().next().unwrap_or_default().to_owned(),
        }
    })?;
    match value {
        Value::Object(fields) => Ok(fields),
        _ => Err(Error::Yaml {
            file: label.to_owned(),
            line: 1,
            column: 1,
            reason: "a task file must be a mapping of fields".to_owned(),
        }),
    }
}

/// Puts `!function module.name` into quotation marks, without moving anything to another line.
fn quote_functions(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let Some((before, after)) = line.split_once("!function") else {
            out.push_str(line);
            continue;
        };
        let opens = before.trim_end().ends_with([':', '-']) || before.trim().is_empty();
        let name = after.trim();
        if !opens || name.is_empty() || name.contains(char::is_whitespace) {
            out.push_str(line);
            continue;
        }
        let end = if line.ends_with('\n') { "\n" } else { "" };
        out.push_str(&format!("{before}\"!function {name}\"{end}"));
    }
    out
}

fn includes(label: &str, value: Option<Value>) -> Result<Vec<String>> {
    let wrong = || Error::Yaml {
        file: label.to_owned(),
        line: 1,
        column: 1,
        reason: "include must be a file name or a list of them".to_owned(),
    };
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(one)) => Ok(vec![one]),
        Some(Value::Array(many)) => many
            .into_iter()
            .map(|one| one.as_str().map(str::to_owned).ok_or_else(wrong))
            .collect(),
        Some(_) => Err(wrong()),
    }
}

/// The line of a top-level field, from one.
fn line_of(text: &str, field: &str) -> usize {
    let opens = |line: &str| {
        let rest = line
            .strip_prefix(field)
            .or_else(|| line.strip_prefix(&format!("\"{field}\"")));
        rest.is_some_and(|rest| rest.trim_start().starts_with(':'))
    };
    text.lines().position(opens).map_or(1, |at| at + 1)
}
