//! From the rows of published dataset formats to [`Example`]s.

mod alpaca;
mod classification;
mod columns;
mod detect;
mod dolly;
mod fields;
mod judged;
mod oasst_rows;
mod oasst_tree;
mod openai;
mod pairs;
mod preference;
mod scored;
mod sharegpt;
mod stepwise;
#[cfg(test)]
mod tests;
mod text;
mod turns;
mod ultrachat;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use alpaca::AlpacaForm;
pub(crate) use columns::{check as check_columns, rename as rename_columns};
pub use detect::{Detected, detect_format};
pub use oasst_tree::TreePaths;

use crate::error::{Error, Result};
use crate::example::Example;
use crate::names::near;
use crate::readers::{Record, Records};

/// A dataset format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Format {
    /// `instruction`, `input`, `output`; also `system`, and `history` of question and answer pairs.
    Alpaca,
    /// `instruction`, `context`, `response`.
    Dolly,
    /// `conversations` of `from` and `value`; also `system` and `tools`.
    ShareGpt,
    /// `messages` of `role` and `content`; also `tools`.
    OpenAi,
    /// OpenAssistant trees: `prompt` with nested `replies`.
    OasstTree,
    /// OpenAssistant messages: `message_id`, `parent_id`, `text`, `role`, the rows of a tree side by side.
    OasstRows,
    /// `inputs`, `targets`.
    Flan,
    /// `system_prompt`, `question`, `response`.
    Orca,
    /// `data`, a list of texts in turn; or `messages`.
    UltraChat,
    /// `instruction` and `output`, or `conversations`; never detected, since Alpaca and ShareGPT look the same.
    WizardLm,
    /// `prompt`, `completion`.
    Completion,
    /// `text`.
    Text,
    /// `chosen`, `rejected`, with or without `prompt`, as text or turns; also `margin` or scores.
    Preference,
    /// `input`, `target_scores`: BIG-bench's choices, the best preferred to each of the others.
    Scored,
    /// `prompt`, `completion`, `label`; or turns and `label`.
    Judged,
    /// `prompt`, `completions`, `labels`: steps that are right or wrong.
    Stepwise,
    /// `text`, `label`.
    Classification,
}

/// Names of the formats, in the order of [`Format::ALL`].
const NAMES: &[&str] = &[
    "alpaca",
    "dolly",
    "sharegpt",
    "openai",
    "oasst-tree",
    "oasst-rows",
    "flan",
    "orca",
    "ultrachat",
    "wizardlm",
    "completion",
    "text",
    "preference",
    "scored",
    "judged",
    "stepwise",
    "classification",
];

impl Format {
    /// Every format.
    pub const ALL: [Self; 17] = [
        Self::Alpaca,
        Self::Dolly,
        Self::ShareGpt,
        Self::OpenAi,
        Self::OasstTree,
        Self::OasstRows,
        Self::Flan,
        Self::Orca,
        Self::UltraChat,
        Self::WizardLm,
        Self::Completion,
        Self::Text,
        Self::Preference,
        Self::Scored,
        Self::Judged,
        Self::Stepwise,
        Self::Classification,
    ];

    /// The name, as options spell it.
    pub fn name(self) -> &'static str {
        NAMES[self as usize]
    }

    /// The keys that the format has.
    pub fn keys(self) -> &'static str {
        match self {
            Self::Alpaca => "instruction, output",
            Self::Dolly => "instruction, response",
            Self::ShareGpt => "conversations of from, value",
            Self::OpenAi => "messages of role, content",
            Self::OasstTree => "prompt with replies",
            Self::OasstRows => "message_id, parent_id, text, role",
            Self::Flan => "inputs, targets",
            Self::Orca => "question, response",
            Self::UltraChat => "data",
            Self::WizardLm => "instruction, output or conversations",
            Self::Completion => "prompt, completion",
            Self::Text => "text",
            Self::Preference => "chosen, rejected",
            Self::Scored => "input, target_scores",
            Self::Judged => "prompt, completion, label or messages, label",
            Self::Stepwise => "prompt, completions, labels",
            Self::Classification => "text, label",
        }
    }

    /// Turns a record into examples: one, or several where the record is a tree.
    ///
    /// Rows of [`Format::OasstRows`] are [gathered](Self::gather) first.
    ///
    /// # Errors
    /// [`Error::InvalidRecord`] with what was expected and what was there.
    pub fn convert(self, record: &Record, options: &ConvertOptions) -> Result<Vec<Example>> {
        match self {
            Self::Alpaca => alpaca::convert(record, options),
            Self::Dolly => dolly::convert(record),
            Self::ShareGpt => sharegpt::convert(record),
            Self::OpenAi => openai::convert(record),
            Self::OasstTree => oasst_tree::convert(record, options),
            Self::OasstRows => oasst_rows::convert(record, options),
            Self::Flan => pairs::convert_flan(record),
            Self::Orca => pairs::convert_orca(record),
            Self::UltraChat => ultrachat::convert(record),
            Self::WizardLm => pairs::convert_wizardlm(record, options),
            Self::Completion => pairs::convert_completion(record),
            Self::Text => text::convert(record),
            Self::Preference => preference::convert(record),
            Self::Scored => scored::convert(record),
            Self::Judged => judged::convert(record),
            Self::Stepwise => stepwise::convert(record),
            Self::Classification => classification::convert(record, options),
        }
    }

    /// Puts rows together that make one record; most formats have each record in a row and change nothing.
    pub fn gather(self, records: Records) -> Records {
        match self {
            Self::OasstRows => oasst_rows::gather(records),
            _ => records,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let wanted = name.to_ascii_lowercase().replace('_', "-");
        Self::ALL
            .into_iter()
            .find(|format| format.name() == wanted)
            .ok_or_else(|| Error::UnknownName {
                what: "format",
                name: name.to_owned(),
                near: near(&wanted, NAMES),
                known: NAMES,
            })
    }
}

impl TryFrom<String> for Format {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

impl From<Format> for String {
    fn from(format: Format) -> Self {
        format.name().to_owned()
    }
}

/// How records become examples.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConvertOptions {
    /// What an Alpaca record becomes.
    pub alpaca: AlpacaForm,
    /// Which conversations are read from an OpenAssistant tree.
    pub tree: TreePaths,
    /// Names of the classes, by index, where labels are names.
    pub classes: Vec<String>,
}
