//! Where the fixtures are, and how they are read.

use std::path::PathBuf;

use flametune_data::{Message, Tokenizer};
use serde::de::DeserializeOwned;

/// Names of the tokenizers under `fixtures/tokenizers`.
pub(crate) const TOKENIZERS: [&str; 6] = [
    "bytelevel_bpe",
    "llama2_bpe_bytefallback",
    "llama3_bpe",
    "smollm_bpe",
    "unigram",
    "wordpiece",
];

pub(crate) fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../fixtures")
        .join(name)
}

pub(crate) fn json<T: DeserializeOwned>(name: &str) -> T {
    let text =
        std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

pub(crate) fn tokenizer(name: &str) -> Tokenizer {
    let file = format!("tokenizers/{name}.json");
    Tokenizer::from_json(&file, &std::fs::read(path(&file)).unwrap()).unwrap()
}

/// The byte-level tokenizer of the chat fixtures, with its special tokens.
pub(crate) fn chat_tokenizer() -> Tokenizer {
    Tokenizer::from_folder(&path("chat/tokenizer")).unwrap()
}

/// The conversations of the chat fixtures, in order.
pub(crate) fn conversations() -> Vec<(String, Vec<Message>)> {
    let all: serde_json::Map<String, serde_json::Value> = json("chat/conversations.json");
    all.into_iter()
        .map(|(name, messages)| (name, serde_json::from_value(messages).unwrap()))
        .collect()
}
