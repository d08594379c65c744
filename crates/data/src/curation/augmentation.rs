//! Other wordings of instructions, with the answers untouched.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::example::Example;
use crate::message::Content;
use crate::random::{below, draw, unit};

/// A way to reword an instruction without changing what it asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rewording {
    /// The first letter in lower case, as people type. Leaves words such as `I` or `DNA` alone.
    LowerFirst,
    /// Without the full stop at the end.
    NoFullStop,
    /// `Please ` before an English instruction that begins with a capitalised word and is no question; the word goes to
    /// lower case.
    Please,
    /// `Task: ` before it.
    TaskLabel,
    /// `Instruction:` on a line before it.
    Heading,
    /// Within double quotes after `Follow this instruction: `. Leaves texts of several lines alone.
    Quoted,
}

/// Which instructions of a dataset are reworded, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AugmentationOptions {
    /// The share of the examples that are, between 0 and 1.
    pub rate: f64,
    /// The ways, one of which is drawn for each.
    pub rewordings: Vec<Rewording>,
}

/// Rewords the instructions of some examples.
///
/// Only the first message of the user, or the prompt of a completion, is changed; answers, preference pairs and plain
/// texts never are. Which example is reworded how depends on (seed, epoch, index) alone. These are changes of form: they
/// make a model less sensitive to how an instruction is dressed, and add no knowledge.
///
/// # Examples
/// ```
/// use flametune_data::{Augmentation, Example, Message, Rewording};
///
/// # fn main() -> flametune_data::Result<()> {
/// let augmentation = Augmentation::new(1, 1.0, vec![Rewording::Please])?;
/// let mut example = Example::Chat {
///     messages: vec![Message::user("Name a prime."), Message::assistant("7")],
///     tools: None,
/// };
/// assert_eq!(augmentation.apply(&mut example, 0, 0), Some(Rewording::Please));
/// let Example::Chat { messages, .. } = example else { unreachable!() };
/// assert_eq!(messages[0].content.as_text(), Some("Please name a prime."));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Augmentation {
    seed: u64,
    rate: f64,
    rewordings: Vec<Rewording>,
}

impl Augmentation {
    /// Rewords a share `rate` of the examples, each with one of the rewordings.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] of a rate outside of 0 to 1, or of an empty list.
    pub fn new(seed: u64, rate: f64, rewordings: Vec<Rewording>) -> Result<Self> {
        let invalid = |option: &str, expected, got: String| Error::InvalidOption {
            option: option.into(),
            expected,
            got,
        };
        if !(0.0..=1.0).contains(&rate) {
            return Err(invalid("rate", "between 0 and 1", rate.to_string()));
        }
        if rewordings.is_empty() {
            return Err(invalid(
                "rewordings",
                "a list of at least one",
                "none".into(),
            ));
        }
        Ok(Self {
            seed,
            rate,
            rewordings,
        })
    }

    /// Rewords the example, or not. Says which rewording was used; none when the draw or the text was against it.
    pub fn apply(&self, example: &mut Example, epoch: u64, index: u64) -> Option<Rewording> {
        if unit(draw(self.seed, "reword", epoch, index)) >= self.rate {
            return None;
        }
        let number = draw(self.seed, "rewording", epoch, index);
        let rewording = self.rewordings[below(number, self.rewordings.len())];
        let text = instruction(example)?;
        *text = rewording.of(text)?;
        Some(rewording)
    }
}

impl Rewording {
    /// The reworded instruction; none where this rewording does not fit.
    pub fn of(self, text: &str) -> Option<String> {
        match self {
            Self::LowerFirst => lower_first(text),
            Self::NoFullStop => text
                .strip_suffix('.')
                .filter(|rest| !rest.ends_with('.') && !rest.trim().is_empty())
                .map(str::to_owned),
            Self::Please => {
                let is_question = text.trim_end().ends_with('?');
                let english = text.split_whitespace().next()?.is_ascii();
                (!is_question && english)
                    .then(|| lower_first(text))?
                    .map(|text| format!("Please {text}"))
            }
            Self::TaskLabel => Some(format!("Task: {text}")),
            Self::Heading => Some(format!("Instruction:\n{text}")),
            Self::Quoted => (!text.contains(['\n', '"']))
                .then(|| format!("Follow this instruction: \"{text}\"")),
        }
    }
}

/// The text with its first word in lower case, where that is a capitalised word and more than one letter.
fn lower_first(text: &str) -> Option<String> {
    let mut chars = text.chars();
    let first = chars
        .next()
        .filter(|c| c.is_uppercase() && c.to_lowercase().next() != Some(*c))?;
    let second = chars.next().filter(|c| c.is_lowercase())?;
    Some(first.to_lowercase().chain([second]).chain(chars).collect())
}

fn instruction(example: &mut Example) -> Option<&mut String> {
    match example {
        Example::Chat { messages, .. } => {
            let message = messages.iter_mut().find(|message| message.role == "user")?;
            match &mut message.content {
                Content::Text(text) => Some(text),
                _ => None,
            }
        }
        Example::Completion { prompt, .. } => Some(prompt),
        _ => None,
    }
}
