//! Everything that can go wrong between files, text and token ids.

use std::path::PathBuf;

use crate::readers::Location;

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
    /// A tokenizer that llama.cpp's headers cannot describe.
    #[error("the tokenizer has no form in a GGUF header: {what}")]
    NoGgufForm {
        /// What stands in the way.
        what: String,
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
    /// A tokenizer has no form as a file.
    #[error("cannot write the tokenizer: {reason}")]
    NotSaved {
        /// What stands against it.
        reason: String,
    },
    /// Ids could not be turned into text.
    #[error("cannot decode the ids: {reason}")]
    Decode {
        /// What the tokenizer said.
        reason: String,
    },
    /// A record could not be used.
    #[error("{record}: {source}")]
    Record {
        /// Where the record stands.
        record: String,
        /// Why it could not be used.
        source: Box<Error>,
    },
    /// A conversation shall be encoded, but there is no chat template.
    #[error("a {kind} example needs a chat template, but there is none")]
    NoChatTemplate {
        /// The kind of the example.
        kind: &'static str,
    },
    /// A part of an example is empty.
    #[error("{field} is empty")]
    EmptyField {
        /// The part.
        field: &'static str,
    },
    /// No token of an example would be trained.
    #[error("none of the {tokens} tokens is trained: {reason}")]
    NothingTrained {
        /// Number of tokens.
        tokens: usize,
        /// Why.
        reason: String,
    },
    /// An example is longer than the limit.
    #[error("{tokens} tokens are more than max_length {limit}")]
    TooLong {
        /// Number of tokens.
        tokens: usize,
        /// The limit.
        limit: usize,
    },
    /// BOS stands at the front twice.
    #[error("the ids begin with {token:?} twice")]
    DoubleBos {
        /// BOS.
        token: String,
    },
    /// What is trained does not end with a token that ends a generation.
    #[error(
        "what is trained ends with {last:?}, not with a token that ends a generation ({})",
        eos.join(", ")
    )]
    MissingEos {
        /// The last trained token.
        last: String,
        /// The tokens that end a generation.
        eos: Vec<String>,
    },
    /// A template renders a prompt differently once it is answered.
    #[error(
        "chat template {template:?}: the prompt's text is not how the text with {field} begins"
    )]
    PromptNotPrefix {
        /// Name of the template.
        template: String,
        /// The answer.
        field: &'static str,
    },
    /// The prompt has other tokens before one answer than before the other.
    #[error("the prompt's tokens differ between chosen and rejected from token {position} on")]
    PromptTokensDiffer {
        /// Position of the first difference, from zero.
        position: usize,
    },
    /// Two answers that shall be compared are the same.
    #[error("chosen and rejected are the same {tokens} tokens")]
    EqualAnswers {
        /// Number of tokens of the answer.
        tokens: usize,
    },
    /// An example does not fit into a row or a batch.
    #[error("example {index} has {tokens} tokens, more than {field} {limit}")]
    ExampleTooLong {
        /// Position of the example, from zero.
        index: usize,
        /// Its number of tokens.
        tokens: usize,
        /// The option that sets the limit.
        field: &'static str,
        /// The limit.
        limit: usize,
    },
    /// There is nothing to make a batch of.
    #[error("there are no examples")]
    NoExamples,
    /// No token of a batch would be trained.
    #[error("none of the {tokens} tokens in the {rows} rows of the batch is trained")]
    BatchUntrained {
        /// Number of rows.
        rows: usize,
        /// Number of tokens.
        tokens: usize,
    },
    /// A saved position belongs to other data or options.
    #[error("cannot resume: {field} was {saved}, but is {now}")]
    CursorMismatch {
        /// What differs.
        field: &'static str,
        /// Its saved value.
        saved: String,
        /// Its value now.
        now: String,
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
    /// A source of a dataset names no file.
    #[error("{pattern}: {reason}")]
    NoFiles {
        /// The path, folder or pattern.
        pattern: String,
        /// Why there is none.
        reason: String,
    },
    /// A data set of the hub is in none of the folders that data sets are fetched to.
    #[error(
        "{name} was not fetched: looked for {}; `cargo xtask fetch hub:datasets/{}` fetches it",
        shown(looked_at),
        name.trim_start_matches("hub:")
    )]
    NotFetched {
        /// `hub:OWNER/NAME`.
        name: String,
        /// The folders that it could be in.
        looked_at: Vec<PathBuf>,
    },
    /// A folder holds data files of several kinds, so that it is unclear which are meant.
    #[error("{} holds data files of several kinds ({}); name one with a pattern such as \"*.jsonl\"", folder.display(), kinds.join(", "))]
    MixedFolder {
        /// The folder.
        folder: PathBuf,
        /// The kinds that were found.
        kinds: Vec<&'static str>,
    },
    /// Neither the name nor the first bytes of a file tell what it is.
    #[error("cannot tell what kind of file {} is (known: {})", path.display(), known.join(", "))]
    UnknownFileKind {
        /// The file.
        path: PathBuf,
        /// The kinds that are known.
        known: Vec<&'static str>,
    },
    /// A data file is damaged, so that nothing after this place can be read.
    #[error("{file}: damaged {kind} after {records} records: {reason}")]
    DamagedFile {
        /// The file.
        file: String,
        /// What kind of file it is.
        kind: &'static str,
        /// Number of records that were read before.
        records: u64,
        /// What the reader said.
        reason: String,
    },
    /// One record is not what its format says; the others can still be read.
    #[error("{at}: expected {expected}, got {got}")]
    InvalidRecord {
        /// Where the record stands.
        at: Location,
        /// What was expected.
        expected: String,
        /// What was there.
        got: String,
    },
    /// One line is longer than a record may be; the others can still be read.
    #[error("{at}: the record is larger than the limit of {limit} bytes")]
    RecordTooLarge {
        /// Where the record stands.
        at: Location,
        /// The limit.
        limit: usize,
    },
    /// The records of a file have a format that is not known.
    #[error(
        "{at}: no format has the keys {}; map them with `columns`, or name one of the formats {}",
        keys.join(", "),
        known.join("; ")
    )]
    UnknownFormat {
        /// The first record.
        at: Location,
        /// Its keys.
        keys: Vec<String>,
        /// The formats that are known, each with its keys.
        known: Vec<String>,
    },
    /// The records of a file could be of several formats.
    #[error(
        "{at}: the keys {} fit the formats {}; name the one that is meant",
        keys.join(", "),
        candidates.join(" and ")
    )]
    AmbiguousFormat {
        /// The first record.
        at: Location,
        /// Its keys.
        keys: Vec<String>,
        /// The formats that fit.
        candidates: Vec<&'static str>,
    },
    /// A name in the options of a dataset is unknown.
    #[error("no {what} is called {name:?}{}", did_you_mean(near, known))]
    UnknownName {
        /// What kind of thing was named.
        what: &'static str,
        /// The name.
        name: String,
        /// Known names that are spelled alike.
        near: Vec<&'static str>,
        /// All names.
        known: &'static [&'static str],
    },
    /// An option has a value that makes no sense.
    #[error("{option} must be {expected}, got {got}")]
    InvalidOption {
        /// The option.
        option: String,
        /// What is accepted.
        expected: &'static str,
        /// What was given.
        got: String,
    },
    /// A dataset yields no example.
    #[error(
        "{sources} has no examples: {records} records read, {invalid} of them invalid, {set_aside} examples set aside \
         by split, limits or exclusions{}",
        first(first_invalid.as_deref())
    )]
    EmptyDataset {
        /// The paths of the source.
        sources: String,
        /// Number of records.
        records: u64,
        /// Number of records that were skipped as invalid.
        invalid: u64,
        /// Number of examples that belong to the other part of the split, or were left out.
        set_aside: u64,
        /// What was wrong with the first invalid record.
        first_invalid: Option<String>,
    },
}

impl Error {
    /// Whether the error is about one record alone, so that reading can go on with the next.
    pub fn concerns_one_record(&self) -> bool {
        matches!(
            self,
            Self::InvalidRecord { .. } | Self::RecordTooLarge { .. }
        )
    }

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

/// The end of the message about a dataset without examples.
fn first(invalid: Option<&str>) -> String {
    invalid.map_or_else(String::new, |message| format!("; the first: {message}"))
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

fn shown(paths: &[PathBuf]) -> String {
    let paths = paths.iter().map(|path| path.display().to_string());
    paths.collect::<Vec<_>>().join(", ")
}
