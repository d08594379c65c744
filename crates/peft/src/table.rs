//! The names of a model's adapters and their configurations.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::PeftConfig;
use crate::error::{Error, Result};

/// The longest name of an adapter, in bytes.
const MAX_NAME_BYTES: usize = 128;

/// What a model knows of the adapters in its slots: their names, and the configuration of each.
#[derive(Debug, Clone, Default)]
pub struct AdapterTable {
    configs: BTreeMap<String, Arc<PeftConfig>>,
    merged: Vec<String>,
}

impl AdapterTable {
    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.configs.keys().map(String::as_str)
    }

    /// The configuration of an adapter.
    ///
    /// # Errors
    /// [`Error::UnknownAdapter`].
    pub fn config(&self, name: &str) -> Result<&Arc<PeftConfig>> {
        self.configs.get(name).ok_or_else(|| Error::UnknownAdapter {
            name: name.to_owned(),
            known: self.names().map(str::to_owned).collect(),
        })
    }

    /// The adapters that are merged into the base weights now.
    pub fn merged(&self) -> &[String] {
        &self.merged
    }

    pub(crate) fn set_merged(&mut self, names: Vec<String>) {
        self.merged = names;
    }

    /// Checks that a new adapter may have this name.
    pub(crate) fn check_new(&self, name: &str) -> Result<()> {
        check_name(name)?;
        if self.configs.contains_key(name) {
            return Err(Error::NameTaken {
                name: name.to_owned(),
            });
        }
        Ok(())
    }

    pub(crate) fn insert(&mut self, name: &str, config: PeftConfig) {
        self.configs.insert(name.to_owned(), Arc::new(config));
    }

    pub(crate) fn remove(&mut self, name: &str) -> Result<Arc<PeftConfig>> {
        let config = Arc::clone(self.config(name)?);
        self.configs.remove(name);
        Ok(config)
    }

    pub(crate) fn rename(&mut self, from: &str, to: &str) -> Result<()> {
        let config = Arc::clone(self.config(from)?);
        self.check_new(to)?;
        self.configs.remove(from);
        self.configs.insert(to.to_owned(), config);
        Ok(())
    }
}

/// Checks that a text can name an adapter: in a file path, in a dotted key, in a request.
///
/// # Errors
/// [`Error::InvalidName`].
pub fn check_name(name: &str) -> Result<()> {
    let reason = if name.is_empty() {
        "it is empty"
    } else if name.len() > MAX_NAME_BYTES {
        "it is longer than 128 bytes"
    } else if name == "__base__" {
        "the name stands for the base"
    } else if name.starts_with(char::is_whitespace) || name.ends_with(char::is_whitespace) {
        "it begins or ends with a space"
    } else if name.contains(|c: char| c.is_control() || "./\\:*?\"<>|".contains(c)) {
        "dots, slashes and control characters are not allowed"
    } else {
        return Ok(());
    };
    Err(Error::InvalidName {
        name: name.to_owned(),
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_out_of_a_folder_are_refused() {
        for name in [
            "", "..", "a/b", "../x", "a\\b", "C:", "a.b", "a\0", " a", "__base__",
        ] {
            assert!(
                matches!(check_name(name), Err(Error::InvalidName { .. })),
                "{name:?}"
            );
        }
        for name in ["default", "sql-v2", "ärztlich", "a b"] {
            check_name(name).unwrap();
        }
    }
}
