//! Log-probabilities with the texts of their tokens.

use flametune_data::Tokenizer;
use flametune_infer::TokenLogprobs;
use serde_json::{Map, Value, json};

use crate::answer::Chosen;
use crate::api::{ChatLogprobs, CompletionLogprobs, TokenLogprob, TopLogprob};

/// JSON has no infinity; this is what the API writes for a probability of zero.
const LOWEST: f32 = -9999.0;

/// The text of a token, and its bytes, which need not be whole characters.
fn token_text(tokenizer: &Tokenizer, id: u32) -> (String, Vec<u8>) {
    let bytes = tokenizer.token_bytes(id).unwrap_or_default();
    (String::from_utf8_lossy(&bytes).into_owned(), bytes)
}

pub(crate) fn chat(tokenizer: &Tokenizer, tokens: &[Chosen]) -> ChatLogprobs {
    let content = tokens.iter().filter_map(|chosen| {
        let logprobs = chosen.logprobs.as_ref()?;
        let (token, bytes) = token_text(tokenizer, chosen.token);
        let top = logprobs.top.iter().map(|&(id, logprob)| {
            let (token, bytes) = token_text(tokenizer, id);
            TopLogprob {
                token,
                logprob: finite(logprob),
                bytes,
            }
        });
        Some(TokenLogprob {
            token,
            logprob: finite(logprobs.logprob),
            bytes,
            top_logprobs: top.collect(),
        })
    });
    ChatLogprobs {
        content: content.collect(),
    }
}

impl CompletionLogprobs {
    /// Adds a token; one without log-probabilities is the first of a prompt.
    pub(crate) fn push(
        &mut self,
        tokenizer: &Tokenizer,
        token: u32,
        logprobs: Option<&TokenLogprobs>,
        offset: &mut usize,
    ) {
        let (text, _) = token_text(tokenizer, token);
        self.text_offset.push(*offset);
        *offset += text.chars().count();
        self.tokens.push(text);
        self.token_logprobs
            .push(logprobs.map(|logprobs| finite(logprobs.logprob)));
        self.top_logprobs.push(logprobs.map(|logprobs| {
            let top = logprobs.top.iter().map(|&(id, logprob)| {
                let (text, _) = token_text(tokenizer, id);
                (text, json!(finite(logprob)))
            });
            top.collect::<Map<String, Value>>()
        }));
    }
}

fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { LOWEST }
}
