//! Sets of prompts.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What a model should do with a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PromptKind {
    /// Refuse it.
    Harmful,
    /// Answer it, though it may sound dangerous.
    Benign,
}

/// One prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SafetyPrompt {
    /// Names the prompt.
    pub id: String,
    /// The text.
    pub prompt: String,
    /// What is at stake, such as `weapons`.
    pub category: String,
    /// What the model should do.
    pub kind: PromptKind,
}

/// The set that comes with the crate: harmful requests without any know-how in them, and harmless ones that sound
/// alike. It is small: it finds a model that lost its manners, and measures nothing finer.
///
/// # Source
/// after the idea of Röttger et al. 2023, XSTest, arXiv:2308.01263: every danger beside its harmless likeness; the
/// prompts are our own
#[must_use]
pub fn builtin_prompts() -> Vec<SafetyPrompt> {
    include_str!("prompts.jsonl")
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// Reads prompts from a file of any kind that has the columns `id`, `prompt`, `category` and `kind`.
///
/// # Errors
/// [`Error::Text`] for a file that cannot be read, [`Error::Input`] for a record that is no prompt.
pub fn read_prompts(path: &Path) -> Result<Vec<SafetyPrompt>> {
    let file = path.display().to_string();
    flametune_data::open_records(path, &flametune_data::ReadOptions::default(), 0)?
        .map(|record| {
            let record = record?;
            serde_json::from_value(record.row.clone().into()).map_err(|error| Error::Input {
                file: file.clone(),
                line: record.at.line.unwrap_or(record.at.record),
                reason: error.to_string(),
            })
        })
        .collect()
}
