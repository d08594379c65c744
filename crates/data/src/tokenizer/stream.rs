//! Decoding ids as they arrive.

use std::ops::Deref;
use std::sync::Arc;

use super::Tokenizer;
use crate::error::Result;

/// Stands for bytes that are not, or not yet, a character.
const REPLACEMENT: char = '\u{fffd}';

/// Turns ids into text one at a time.
///
/// The pieces put together are the text of [`Tokenizer::decode`], and no piece ends inside of a character: bytes of
/// an unfinished character are held back until it is complete, or until [`Self::finish`].
/// With a byte-fallback vocabulary, all bytes up to the next ordinary token are held back, because the decoder judges
/// such a run as a whole.
///
/// # Examples
/// ```
/// # use flametune_data::Tokenizer;
/// # fn stream(tokenizer: &Tokenizer, ids: &[u32]) -> flametune_data::Result<String> {
/// let mut stream = tokenizer.text_stream(true);
/// let mut text = String::new();
/// for &id in ids {
///     text.push_str(&stream.push(id)?);
/// }
/// text.push_str(&stream.finish()?);
/// assert_eq!(text, tokenizer.decode(ids, true)?);
/// # Ok(text)
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct TextStream<'a> {
    tokenizer: Held<'a>,
    skip_special: bool,
    /// The latest ids: those whose text was complete the last time, for context, and those since.
    window: Vec<u32>,
    /// Number of ids in the window whose text was complete the last time.
    context: usize,
    /// Bytes of the window's text that were handed out.
    emitted: usize,
}

/// A tokenizer that is lent, or shared with whoever else uses it.
#[derive(Debug, Clone)]
enum Held<'a> {
    Lent(&'a Tokenizer),
    Shared(Arc<Tokenizer>),
}

impl Deref for Held<'_> {
    type Target = Tokenizer;

    fn deref(&self) -> &Tokenizer {
        match self {
            Self::Lent(tokenizer) => tokenizer,
            Self::Shared(tokenizer) => tokenizer,
        }
    }
}

impl TextStream<'static> {
    /// A stream that keeps the tokenizer alive itself, for work that outlives its caller.
    pub fn shared(tokenizer: Arc<Tokenizer>, skip_special: bool) -> Self {
        Self::over(Held::Shared(tokenizer), skip_special)
    }
}

impl<'a> TextStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, skip_special: bool) -> Self {
        Self::over(Held::Lent(tokenizer), skip_special)
    }

    fn over(tokenizer: Held<'a>, skip_special: bool) -> Self {
        Self {
            tokenizer,
            skip_special,
            window: Vec::new(),
            context: 0,
            emitted: 0,
        }
    }

    /// Takes one id and returns the text that it completes, often empty.
    ///
    /// # Errors
    /// [`crate::Error::Decode`] when the decoder fails.
    pub fn push(&mut self, id: u32) -> Result<String> {
        let Some(token) = self.tokenizer.id_to_token(id) else {
            return Ok(String::new());
        };
        if self.skip_special && self.tokenizer.is_special(id) {
            return Ok(String::new());
        }
        self.window.push(id);
        if self.tokenizer.byte_fallback && is_byte_token(&token) {
            return Ok(String::new());
        }
        let text = self.tokenizer.decode(&self.window, self.skip_special)?;
        // Only the last replacement character can still become another one.
        let stable = text.strip_suffix(REPLACEMENT).unwrap_or(&text).len();
        let piece = self.take(&text, stable);
        if stable == text.len() && !piece.is_empty() {
            self.advance()?;
        }
        Ok(piece)
    }

    /// Ends the stream and returns what was held back.
    ///
    /// # Errors
    /// [`crate::Error::Decode`] when the decoder fails.
    pub fn finish(mut self) -> Result<String> {
        let text = self.tokenizer.decode(&self.window, self.skip_special)?;
        Ok(self.take(&text, text.len()))
    }

    /// Hands out the window's text up to `end`.
    fn take(&mut self, text: &str, end: usize) -> String {
        let Some(piece) = text.get(self.emitted..end) else {
            return String::new();
        };
        self.emitted = end;
        piece.to_owned()
    }

    /// Drops the ids that were context; those since become the context of the next.
    fn advance(&mut self) -> Result<()> {
        self.window.drain(..self.context);
        self.context = self.window.len();
        self.emitted = self
            .tokenizer
            .decode(&self.window, self.skip_special)?
            .len();
        Ok(())
    }
}

/// Whether a token is `<0x00>` … `<0xFF>`.
fn is_byte_token(token: &str) -> bool {
    token
        .strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'))
        .is_some_and(|hex| hex.len() == 2 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}
