//! Guides from JSON schemas, regular expressions, grammars and lists of choices.

use std::fmt;
use std::sync::Arc;

use llguidance::api::{StopReason, TopLevelGrammar};
use llguidance::{Matcher, ParserFactory};
use toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};

use crate::error::{Error, Result};
use crate::guide::{Constraint, Guide};

/// What a token of a vocabulary stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenText {
    /// These bytes of text, not always whole characters.
    Bytes(Vec<u8>),
    /// No text, such as the end of a turn; its name.
    Special(String),
    /// Nothing: a number that no token has.
    Unused,
}

/// Makes [`Guide`]s for one vocabulary.
///
/// # Examples
/// ```
/// use flametune_infer::{GuideFactory, TokenText};
///
/// let mut tokens: Vec<TokenText> = (0..=255).map(|byte| TokenText::Bytes(vec![byte])).collect();
/// tokens.push(TokenText::Special("<eos>".to_owned()));
/// let factory = GuideFactory::new(&tokens, &[256])?;
/// let guide = factory.regex("[0-9]{3}")?;
/// assert!(factory.json_schema("no JSON").is_err());
/// # let _ = guide;
/// # Ok::<(), flametune_infer::Error>(())
/// ```
pub struct GuideFactory {
    factory: ParserFactory,
}

impl fmt::Debug for GuideFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuideFactory").finish_non_exhaustive()
    }
}

impl GuideFactory {
    /// A factory for a vocabulary, token ids being places in `tokens`; `end_tokens` end an output.
    ///
    /// # Errors
    /// [`Error::Guide`] without tokens or end tokens, and when there are more than the guides can
    /// number.
    pub fn new(tokens: &[TokenText], end_tokens: &[u32]) -> Result<Self> {
        let Some(&end) = end_tokens.first() else {
            return Err(guide("a vocabulary needs a token that ends the output"));
        };
        if let Some(id) = end_tokens.iter().find(|&&id| id as usize >= tokens.len()) {
            let len = tokens.len();
            return Err(guide(format!(
                "end token {id} is outside the vocabulary of {len}"
            )));
        }
        let words: Vec<Vec<u8>> = tokens
            .iter()
            .map(|token| match token {
                TokenText::Bytes(bytes) => bytes.clone(),
                TokenText::Special(name) => {
                    [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat()
                }
                TokenText::Unused => Vec::new(),
            })
            .collect();
        if let Some(long) = words.iter().find(|word| word.len() >= usize::from(u8::MAX)) {
            let len = long.len();
            return Err(guide(format!("a token of {len} bytes is too long")));
        }
        let count = u32::try_from(words.len()).map_err(|_| guide("there are too many tokens"))?;
        let trie = TokTrie::from(&TokRxInfo::new(count, end), &words).with_eos_tokens(end_tokens);
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory =
            ParserFactory::new_simple(&env).map_err(|error| guide(error.to_string()))?;
        factory.quiet();
        Ok(Self { factory })
    }

    /// Output that is JSON after a schema, given as text.
    ///
    /// # Errors
    /// [`Error::Guide`] for what is no JSON, no schema, or a schema with what guides cannot follow.
    pub fn json_schema(&self, schema: &str) -> Result<Guide> {
        self.tagged("json_schema", schema)
    }

    /// Output that is any JSON object.
    ///
    /// # Errors
    /// [`Error::Guide`].
    pub fn json_object(&self) -> Result<Guide> {
        self.tagged("json_object", "")
    }

    /// Output that matches a regular expression as a whole.
    ///
    /// # Errors
    /// [`Error::Guide`] for what is no regular expression.
    pub fn regex(&self, pattern: &str) -> Result<Guide> {
        self.tagged("regex", pattern)
    }

    /// Output after a grammar in llguidance's form of Lark.
    ///
    /// # Errors
    /// [`Error::Guide`] for what is no grammar.
    pub fn grammar(&self, lark: &str) -> Result<Guide> {
        self.tagged("lark", lark)
    }

    /// Output that is one of some texts.
    ///
    /// # Errors
    /// [`Error::Guide`] without choices.
    pub fn choice<S: AsRef<str>>(&self, choices: &[S]) -> Result<Guide> {
        if choices.is_empty() {
            return Err(guide("there must be a choice"));
        }
        let escaped: Vec<String> = choices.iter().map(|text| escape(text.as_ref())).collect();
        self.regex(&format!("({})", escaped.join("|")))
    }

    fn tagged(&self, tag: &str, text: &str) -> Result<Guide> {
        let grammar = TopLevelGrammar::from_tagged_str(tag, text)
            .map_err(|error| guide(error.to_string()))?;
        let parser = self.factory.create_parser(grammar);
        let parser = parser.map_err(|error| guide(error.to_string()))?;
        Ok(Guide::new(Matching(Matcher::new(Ok(parser)))))
    }
}

/// A text as a regular expression that matches it alone.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_punctuation() {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

fn guide(reason: impl Into<String>) -> Error {
    Error::Guide {
        reason: reason.into(),
    }
}

/// A grammar and how far the output has come in it.
struct Matching(Matcher);

impl Constraint for Matching {
    fn restrict(&mut self, logits: &mut [f32]) -> Result<()> {
        let mask = self
            .0
            .compute_mask_or_eos()
            .map_err(|error| guide(error.to_string()))?;
        let known = mask.len().min(logits.len());
        mask.iter_unset_entries(|id| {
            if let Some(logit) = logits.get_mut(id) {
                *logit = f32::NEG_INFINITY;
            }
        });
        logits[known..].fill(f32::NEG_INFINITY);
        Ok(())
    }

    fn advance(&mut self, token: u32) -> Result<bool> {
        self.0
            .consume_token(token)
            .map_err(|error| guide(error.to_string()))?;
        match self.0.stop_reason() {
            StopReason::NotStopped => Ok(false),
            reason if reason.is_ok() => Ok(true),
            reason => Err(guide(format!("{reason:?}"))),
        }
    }

    fn fork(&self) -> Box<dyn Constraint> {
        Box::new(Self(self.0.deep_clone()))
    }
}
