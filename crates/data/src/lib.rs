//! Text in, token ids out: tokenizers, messages and chat templates.
//!
//! Layer 1. This crate knows no model: it turns text and conversations into token ids and back, the way the
//! Hugging Face stack does, so that a model sees the same ids in training, evaluation and serving.
//!
//! - [`Tokenizer`]: from a `tokenizer.json`, from a model folder, or from the vocabulary of a GGUF header
//!   ([`GgufVocab`]); encoding, decoding, streaming decoding ([`TextStream`]), special tokens.
//! - [`Message`], [`Content`]: one turn of a conversation in the OpenAI shape, unknown keys kept.
//! - [`ChatTemplate`]: a Hugging Face chat template rendered with minijinja, or one of the built-in ones;
//!   the text, the byte ranges that the assistant wrote, and the token-level mask for training.
//!
//! # Examples
//! ```
//! use flametune_data::{ChatInput, ChatTemplate, Message};
//!
//! # fn main() -> flametune_data::Result<()> {
//! let messages = [Message::user("2 + 2?"), Message::assistant("4")];
//! let template = ChatTemplate::builtin("chatml")?;
//! let chat = template.render_with_spans(&ChatInput::new(&messages))?;
//! assert_eq!(chat.text, "<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n");
//! assert_eq!(&chat.text[chat.assistant_spans[0].clone()], "4<|im_end|>");
//! # Ok(())
//! # }
//! ```
//!
//! Not here: weights and architectures (`flametune-lm`), parsing GGUF files (`flametune-quant`), sampling.
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "tests fail by panicking"
    )
)]

mod chat;
mod error;
mod message;
mod tokenizer;

pub use chat::{
    BUILTIN_TEMPLATES, ChatInput, ChatTemplate, CivilTime, EncodedChat, MAX_TEMPLATE_BYTES,
    RenderedChat, RewrittenTemplate, rewrite_generation_tags,
};
pub use error::{Error, Result};
pub use message::{Content, Message, parse_messages};
pub use tokenizer::{
    BosEos, Encoded, GgufVocab, SpecialToken, SpecialTokens, TextStream, Tokenizer,
};
