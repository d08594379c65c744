//! What is live, as the gate wrote it down.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::eval::replace;

/// What was published where.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Live {
    adapters: Vec<LiveAdapter>,
}

/// One published adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct LiveAdapter {
    server: String,
    name: String,
    #[serde(flatten)]
    pub(super) place: Published,
    /// What it took the place of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) before: Option<Published>,
}

/// Where an adapter is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Published {
    /// Its folder here.
    pub(super) folder: PathBuf,
    /// Its folder as the server knows it.
    pub(super) server_path: String,
}

impl Live {
    /// Reads the file; nothing is live when there is none.
    pub(super) fn read(file: &Path) -> Result<Self> {
        match fs::read_to_string(file) {
            Ok(text) => serde_json::from_str(&text)
                .with_context(|| format!("{} does not say what is live", file.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
        }
    }

    pub(super) fn adapter(&self, server: &str, name: &str) -> Option<&LiveAdapter> {
        self.adapters
            .iter()
            .find(|adapter| adapter.server == server && adapter.name == name)
    }

    /// Writes down what is live now, and what was before.
    pub(super) fn set(&mut self, server: &str, name: &str, place: Published) {
        let before = self.take(server, name).map(|adapter| adapter.place);
        self.adapters.push(LiveAdapter {
            server: server.to_owned(),
            name: name.to_owned(),
            place,
            before,
        });
    }

    /// Writes down that what was before the last is live again, or nothing.
    pub(super) fn put_back(&mut self, server: &str, name: &str) {
        let before = self.take(server, name).and_then(|adapter| adapter.before);
        if let Some(place) = before {
            self.set(server, name, place);
        }
    }

    fn take(&mut self, server: &str, name: &str) -> Option<LiveAdapter> {
        let is_it = |adapter: &mut LiveAdapter| adapter.server == server && adapter.name == name;
        self.adapters.extract_if(.., is_it).next()
    }

    pub(super) fn write(&self, file: &Path) -> Result<()> {
        replace(file, &serde_json::to_string_pretty(self)?)
    }
}
