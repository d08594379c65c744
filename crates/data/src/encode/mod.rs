//! From one example to token ids and labels.

mod answers;
mod audit;
mod chat;
mod encoded;
mod options;
mod plain;
mod steps;
mod truncation;
mod turns;

pub use encoded::{
    EncodedExample, EncodedJudged, EncodedPair, EncodedRecord, EncodedSteps, EncodedText,
    IGNORE_INDEX, Note, Outcome,
};
pub use options::{EncodeOptions, KeepPrompt, Strictness, TrainOn, Truncation};

use crate::chat::ChatTemplate;
use crate::error::{Error, Result};
use crate::example::Example;
use crate::tokenizer::Tokenizer;

/// Turns examples into token ids and labels: the one path from text to training.
///
/// | example | ids | trained |
/// |---|---|---|
/// | [`Example::Chat`] | the chat template's text | as [`TrainOn`] says, without messages that carry `train: false` or `weight: 0` |
/// | [`Example::Completion`] | prompt and completion as one text, BOS as the tokenizer adds it, EOS | the completion and EOS; a token that straddles the boundary belongs to the completion |
/// | [`Example::Text`] | the text, BOS as the tokenizer adds it, EOS | every token |
/// | [`Example::Preference`] | prompt and answer through the template, twice | each answer |
/// | [`Example::Judged`] | prompt and answer through the template | the answer |
/// | [`Example::Stepwise`] | prompt and steps through the template, a line break between steps | – |
/// | [`Example::Classified`] | the text, with the special tokens of the tokenizer | – |
///
/// # Examples
/// ```
/// use flametune_data::{EncodeOptions, EncodedRecord, Encoder, Example, Outcome, Tokenizer};
///
/// # fn main() -> flametune_data::Result<()> {
/// let json = r#"{"added_tokens": [], "pre_tokenizer": {"type": "Whitespace"},
///   "model": {"type": "WordLevel", "unk_token": "?", "vocab": {"?": 0, "two": 1, "plus": 2, "four": 3}}}"#;
/// let tokenizer = Tokenizer::from_json("tokenizer.json", json.as_bytes())?;
/// let options = EncodeOptions { append_eos: false, ..EncodeOptions::default() };
/// let encoder = Encoder::new(tokenizer, None, options)?;
/// let example = Example::Completion { prompt: "two plus two".into(), completion: " four".into() };
/// let Outcome::Encoded { record: EncodedRecord::Sequence(encoded), .. } = encoder.encode("record 1", &example)? else {
///     unreachable!()
/// };
/// assert_eq!(encoded.input_ids, [1, 2, 1, 3]);
/// assert_eq!(encoded.labels, [-100, -100, -100, 3]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Encoder {
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    options: EncodeOptions,
}

impl Encoder {
    /// An encoder; without a template it takes texts and completions alone.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a limit that leaves no room for a target, [`Error::MissingSpecialToken`] when EOS
    /// shall be appended but the tokenizer has none.
    pub fn new(
        tokenizer: Tokenizer,
        template: Option<ChatTemplate>,
        options: EncodeOptions,
    ) -> Result<Self> {
        options.validate()?;
        if options.append_eos && tokenizer.special().eos.is_none() {
            return Err(Error::MissingSpecialToken {
                field: "append_eos",
                token: "eos",
            });
        }
        Ok(Self {
            tokenizer,
            template,
            options,
        })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The chat template.
    pub fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// The options.
    pub fn options(&self) -> &EncodeOptions {
        &self.options
    }

    /// Encodes one example; `record` stands for it in error messages, such as `train.jsonl:17`.
    ///
    /// # Errors
    /// [`Error::Record`] around the reason: the errors of [`ChatTemplate::render_with_spans`];
    /// [`Error::AssistantMaskEmpty`], [`Error::AssistantMaskFull`] and [`Error::NothingTrained`] for an example with
    /// nothing, or no context, to learn from; [`Error::TooLong`] under [`Truncation::Error`];
    /// [`Error::DoubleBos`] and [`Error::MissingEos`] under [`Strictness::Refuse`]; [`Error::InvalidMessage`] for a
    /// malformed `train` or `weight`; [`Error::PromptNotPrefix`], [`Error::PromptTokensDiffer`] and
    /// [`Error::EqualAnswers`] for answers that cannot be compared; [`Error::EmptyField`], [`Error::NoChatTemplate`].
    pub fn encode(&self, record: &str, example: &Example) -> Result<Outcome> {
        let outcome = match example {
            Example::Chat { messages, tools } => self.encode_chat(messages, tools.as_deref()),
            Example::Completion { prompt, completion } => {
                self.encode_completion(prompt, completion)
            }
            Example::Text(text) => self.encode_text(text),
            Example::Preference {
                prompt,
                chosen,
                rejected,
                margin,
            } => self.encode_preference(prompt, chosen, rejected, *margin),
            Example::Judged {
                prompt,
                completion,
                label,
            } => self.encode_judged(prompt, completion, *label),
            Example::Stepwise {
                prompt,
                steps,
                labels,
            } => self.encode_stepwise(prompt, steps, labels),
            Example::Classified { text, label } => self.encode_classified(text, *label),
        };
        outcome.map_err(|source| Error::Record {
            record: record.to_owned(),
            source: Box::new(source),
        })
    }

    fn template_for(&self, kind: &'static str) -> Result<&ChatTemplate> {
        self.template.as_ref().ok_or(Error::NoChatTemplate { kind })
    }
}
