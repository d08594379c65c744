//! Which tokens of a record are trained, for the eye.

use std::fmt::{self, Write};

use serde::Serialize;

use crate::encode::{EncodedExample, IGNORE_INDEX};
use crate::error::Result;
use crate::tokenizer::Tokenizer;

/// Neighbouring tokens that are all trained or all not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PreviewRun {
    /// Their text, special tokens included.
    pub text: String,
    /// Number of tokens.
    pub tokens: usize,
    /// Whether they are trained.
    pub trained: bool,
}

/// The text of an encoded example with what is trained set apart.
///
/// Displayed with ⟦…⟧ around what is trained; with the alternate form `{:#}` in colours instead: trained text is green,
/// the rest dim. Control characters of the text are shown as escapes, so that it cannot steer a terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Preview {
    /// Stands for the record.
    pub record: String,
    /// The tokens, in order.
    pub runs: Vec<PreviewRun>,
}

impl Preview {
    /// Decodes an example; `record` stands for it.
    ///
    /// A character whose tokens end in the next run is shown there.
    ///
    /// # Errors
    /// [`crate::Error::Decode`] when the decoder fails.
    pub fn new(record: &str, example: &EncodedExample, tokenizer: &Tokenizer) -> Result<Self> {
        let mut stream = tokenizer.text_stream(false);
        let mut runs: Vec<PreviewRun> = Vec::new();
        for (&id, &label) in example.input_ids.iter().zip(&example.labels) {
            let trained = label != IGNORE_INDEX;
            let text = stream.push(id)?;
            match runs.last_mut() {
                Some(run) if run.trained == trained => {
                    run.text.push_str(&text);
                    run.tokens += 1;
                }
                _ => runs.push(PreviewRun {
                    text,
                    tokens: 1,
                    trained,
                }),
            }
        }
        let rest = stream.finish()?;
        if let Some(run) = runs.last_mut() {
            run.text.push_str(&rest);
        }
        Ok(Self {
            record: record.to_owned(),
            runs,
        })
    }

    /// Whether what is displayed ends with the end of a line.
    pub(super) fn ends_line(&self) -> bool {
        let last = self.runs.last();
        last.is_some_and(|run| !run.trained && run.text.ends_with('\n'))
    }
}

impl fmt::Display for Preview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for run in &self.runs {
            let (open, close) = match (f.alternate(), run.trained) {
                (true, true) => ("\u{1b}[32m", "\u{1b}[0m"),
                (true, false) => ("\u{1b}[2m", "\u{1b}[0m"),
                (false, true) => ("⟦", "⟧"),
                (false, false) => ("", ""),
            };
            f.write_str(open)?;
            for c in run.text.chars() {
                match c {
                    '\n' | '\t' => f.write_char(c)?,
                    c if c.is_control() => write!(f, "{}", c.escape_unicode())?,
                    c => f.write_char(c)?,
                }
            }
            f.write_str(close)?;
        }
        Ok(())
    }
}
