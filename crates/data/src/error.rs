//! Everything that can go wrong between text and token ids.

use std::path::PathBuf;

/// The result of every fallible function of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What was wrong with a file, a conversation, a template or a vocabulary.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A folder lacks a file that is needed.
    #[error("{} has no {file}", folder.display())]
    MissingFile {
        /// The folder.
        folder: PathBuf,
        /// The file that was looked for.
        file: &'static str,
    },
    /// A file is not JSON, or not JSON of the expected types.
    #[error("{file}:{line}:{column}: {reason}")]
    InvalidJson {
        /// The file.
        file: String,
        /// Line, counted from one.
        line: usize,
        /// Column, counted from one.
        column: usize,
        /// What the parser expected.
        reason: String,
    },
    /// A field of a JSON file has the wrong type or value.
    #[error("{file}: {field} must be {expected}, got {got}")]
    InvalidField {
        /// The file.
        file: String,
        /// The field, as a path of keys.
        field: String,
        /// What is accepted.
        expected: &'static str,
        /// What was there.
        got: String,
    },
    /// A GGUF header names a tokenizer kind that is not supported.
    #[error("tokenizer.ggml.model {model:?} is not supported (supported: {})", known.join(", "))]
    UnknownTokenizerModel {
        /// The kind that the header names.
        model: String,
        /// The kinds that are supported.
        known: &'static [&'static str],
    },
    /// A GGUF header names a pre-tokenizer that is not supported.
    #[error("tokenizer.ggml.pre {pre:?} is not supported (supported: {})", known.join(", "))]
    UnknownPreTokenizer {
        /// The pre-tokenizer that the header names.
        pre: String,
        /// The pre-tokenizers that are supported.
        known: Vec<&'static str>,
    },
    /// A GGUF vocabulary lacks a field that its kind needs.
    #[error("{field} is missing, but tokenizer.ggml.model {model:?} needs it")]
    MissingVocabField {
        /// The metadata key.
        field: &'static str,
        /// The tokenizer kind.
        model: String,
    },
    /// Two arrays of a GGUF vocabulary have different lengths.
    #[error("{field} has {got} entries, but the vocabulary has {expected} tokens")]
    VocabLength {
        /// The metadata key.
        field: &'static str,
        /// Number of tokens.
        expected: usize,
        /// Number of entries.
        got: usize,
    },
    /// A token occurs twice in a vocabulary.
    #[error("token {token:?} has two ids, {first} and {second}")]
    DuplicateToken {
        /// The token.
        token: String,
        /// Its first id.
        first: u32,
        /// Its second id.
        second: u32,
    },
    /// A merge rule of a byte-pair vocabulary cannot be applied.
    #[error("merge {index} ({merge:?}) is invalid: {reason}")]
    InvalidMerge {
        /// Position in the list of merges.
        index: usize,
        /// The rule as it stands in the file.
        merge: String,
        /// Why it cannot be applied.
        reason: &'static str,
    },
    /// A special token id lies outside the vocabulary.
    #[error("{field} is {id}, but the vocabulary has {vocab_size} tokens")]
    TokenIdOutOfRange {
        /// The field that holds the id.
        field: String,
        /// The id.
        id: u64,
        /// Number of tokens.
        vocab_size: usize,
    },
    /// BOS or EOS shall be added, but the vocabulary names no such token.
    #[error("{field} is true, but the tokenizer has no {token} token")]
    MissingSpecialToken {
        /// The field that asks for the token.
        field: &'static str,
        /// `bos` or `eos`.
        token: &'static str,
    },
    /// The tokenizer has an id that the model's embedding does not have.
    #[error("token {token:?} has id {id}, but the model's vocabulary has {vocab_size} entries")]
    VocabularyMismatch {
        /// The token with the highest id.
        token: String,
        /// Its id.
        id: u32,
        /// Rows of the model's embedding.
        vocab_size: usize,
    },
    /// A text could not be turned into ids.
    #[error("cannot encode the text: {reason}")]
    Encode {
        /// What the tokenizer said.
        reason: String,
    },
    /// Ids could not be turned into text.
    #[error("cannot decode the ids: {reason}")]
    Decode {
        /// What the tokenizer said.
        reason: String,
    },
    /// A message of a conversation is malformed.
    #[error("message {index}: {reason}")]
    InvalidMessage {
        /// Position in the conversation, from zero.
        index: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A chat template cannot be compiled.
    #[error("chat template {template:?}, line {line}: {reason}")]
    TemplateSyntax {
        /// Name of the template.
        template: String,
        /// Line, counted from one.
        line: usize,
        /// What the compiler said.
        reason: String,
    },
    /// A chat template is larger than any real one.
    #[error("chat template {template:?} has {bytes} bytes, more than the limit of {limit}")]
    TemplateTooLarge {
        /// Name of the template.
        template: String,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A chat template refused the conversation with `raise_exception`.
    #[error("chat template {template:?}, line {line}: {message}")]
    TemplateRaised {
        /// Name of the template.
        template: String,
        /// Line of the call, counted from one.
        line: usize,
        /// The message of the template.
        message: String,
    },
    /// A chat template failed while it was rendered.
    #[error("chat template {template:?}, line {line}: {reason}")]
    TemplateRender {
        /// Name of the template.
        template: String,
        /// Line, counted from one.
        line: usize,
        /// What went wrong.
        reason: String,
    },
    /// A chat template took more steps than it may.
    #[error("chat template {template:?}, line {line}: gave up after {fuel} steps")]
    TemplateFuel {
        /// Name of the template.
        template: String,
        /// Line where it was stopped, counted from one.
        line: usize,
        /// The budget.
        fuel: u64,
    },
    /// No built-in template has this name.
    #[error(
        "no built-in chat template is called {name:?}{}",
        did_you_mean(near, known)
    )]
    UnknownTemplate {
        /// The name that was asked for.
        name: String,
        /// Known names that are spelled alike.
        near: Vec<&'static str>,
        /// All names.
        known: &'static [&'static str],
    },
    /// Two options of a rendering exclude each other.
    #[error("{first} and {second} cannot be combined")]
    ConflictingOptions {
        /// The first option.
        first: &'static str,
        /// The second option.
        second: &'static str,
    },
    /// The last message cannot be continued.
    #[error("chat template {template:?}: cannot continue the final message: {reason}")]
    ContinueFinalMessage {
        /// Name of the template.
        template: String,
        /// Why.
        reason: &'static str,
    },
    /// The place of an assistant message in the rendered text could not be found.
    #[error(
        "chat template {template:?}: cannot tell which part of the text is message {index}; \
         use a template with {{% generation %}} tags"
    )]
    AssistantSpanNotFound {
        /// Name of the template.
        template: String,
        /// Position of the message, from zero.
        index: usize,
    },
    /// No token of a training conversation belongs to the assistant.
    #[error("chat template {template:?}: none of the {tokens} tokens was written by the assistant")]
    AssistantMaskEmpty {
        /// Name of the template.
        template: String,
        /// Number of tokens.
        tokens: usize,
    },
    /// Every token of a training conversation belongs to the assistant.
    #[error("chat template {template:?}: all {tokens} tokens count as written by the assistant")]
    AssistantMaskFull {
        /// Name of the template.
        template: String,
        /// Number of tokens.
        tokens: usize,
    },
}

impl Error {
    /// Wraps a `serde_json` error with the file it is about.
    pub(crate) fn json(file: &str, source: &serde_json::Error) -> Self {
        let text = source.to_string();
        // serde_json appends the position that the message already starts with.
        let reason = text.split(" at line ").next().unwrap_or(&text).to_owned();
        Self::InvalidJson {
            file: file.to_owned(),
            line: source.line(),
            column: source.column(),
            reason,
        }
    }
}

/// The second half of the message about an unknown name.
fn did_you_mean(near: &[&str], known: &[&str]) -> String {
    if near.is_empty() {
        format!(" (known: {})", known.join(", "))
    } else {
        format!(
            "; did you mean {}? (known: {})",
            near.join(" or "),
            known.join(", ")
        )
    }
}
