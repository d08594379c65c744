//! From spans of text to a mask over tokens.

use std::ops::Range;

use super::input::ChatInput;
use super::spans::RenderedChat;
use super::template::ChatTemplate;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// A conversation as token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedChat {
    /// The ids, without any special token that the template did not write.
    pub ids: Vec<u32>,
    /// For each id, whether the assistant wrote it.
    pub assistant_mask: Vec<bool>,
}

impl RenderedChat {
    /// Encodes the text; a token belongs to the assistant when any of its bytes does.
    ///
    /// # Errors
    /// [`Error::Encode`] when the tokenizer fails.
    ///
    /// # Source
    /// - reference: transformers `tokenization_utils_base.py::apply_chat_template` with `return_assistant_tokens_mask`
    /// - differs: there, of several tokens that share the last character of a span, only the first is marked
    pub fn encode(&self, tokenizer: &Tokenizer) -> Result<EncodedChat> {
        let encoded = tokenizer.encode_with_offsets(&self.text, false)?;
        let mut assistant_mask = vec![false; encoded.ids.len()];
        for (marked, offset) in assistant_mask.iter_mut().zip(&encoded.offsets) {
            *marked = self
                .assistant_spans
                .iter()
                .any(|span| touches(span, offset));
        }
        Ok(EncodedChat {
            ids: encoded.ids,
            assistant_mask,
        })
    }
}

impl ChatTemplate {
    /// Renders and encodes a training conversation.
    ///
    /// # Errors
    /// The errors of [`Self::render_with_spans`] and [`RenderedChat::encode`]; [`Error::AssistantMaskEmpty`] and
    /// [`Error::AssistantMaskFull`] when there would be nothing, or no context, to learn from.
    pub fn encode(&self, input: &ChatInput<'_>, tokenizer: &Tokenizer) -> Result<EncodedChat> {
        let encoded = self.render_with_spans(input)?.encode(tokenizer)?;
        let (template, tokens) = (self.name().to_owned(), encoded.ids.len());
        match encoded
            .assistant_mask
            .iter()
            .filter(|&&marked| marked)
            .count()
        {
            0 => Err(Error::AssistantMaskEmpty { template, tokens }),
            marked if marked == tokens => Err(Error::AssistantMaskFull { template, tokens }),
            _ => Ok(encoded),
        }
    }
}

/// Whether a token's bytes meet a span. Tokenizers that trim offsets give white space an empty range at its end.
fn touches(span: &Range<usize>, token: &Range<usize>) -> bool {
    if token.is_empty() {
        span.start < token.start && token.start <= span.end
    } else {
        token.start < span.end && span.start < token.end
    }
}
