//! Tokenizers: text to ids and back.

mod bytes;
pub(crate) mod folder;
mod gguf;
mod json;
mod pre_tokenizer;
mod save;
mod sentencepiece;
mod special;
mod stream;
mod to_gguf;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use tokenizers::Tokenizer as Inner;

pub use gguf::GgufVocab;
pub use special::{BosEos, SpecialToken, SpecialTokens};
pub use stream::TextStream;

use crate::error::{Error, Result};

/// A tokenizer: a vocabulary, the rules that cut text into it, and the special tokens.
///
/// # Examples
/// ```
/// use flametune_data::Tokenizer;
///
/// # fn main() -> flametune_data::Result<()> {
/// let json = r#"{"added_tokens": [], "model": {"type": "WordLevel", "unk_token": "?", "vocab": {"?": 0, "hi": 1}}}"#;
/// let tokenizer = Tokenizer::from_json("tokenizer.json", json.as_bytes())?;
/// assert_eq!(tokenizer.encode("hi", true)?, [1]);
/// assert_eq!(tokenizer.decode(&[1, 0], true)?, "hi ?");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Tokenizer {
    inner: Inner,
    special: SpecialTokens,
    /// What `add_special_tokens` adds; `None` leaves it to the post-processor of `tokenizer.json`.
    bos_eos: Option<BosEos>,
    chat_template: Option<String>,
    /// Whether single bytes are tokens of their own, which a decoder joins to characters.
    byte_fallback: bool,
}

/// Token ids with the place of each in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The ids.
    pub ids: Vec<u32>,
    /// Byte range of each id in the text; empty for a special token that was added.
    pub offsets: Vec<Range<usize>>,
}

impl Tokenizer {
    /// Reads `tokenizer.json`; `file` stands for it in error messages.
    ///
    /// Special tokens beyond those of the post-processor are not known from this file alone: see
    /// [`Self::from_folder`]. Truncation and padding that the file asks for are switched off: a training text is
    /// never cut silently.
    ///
    /// # Errors
    /// [`Error::InvalidJson`], or [`Error::InvalidMerge`] for a byte-pair rule that yields no token.
    pub fn from_json(file: &str, bytes: &[u8]) -> Result<Self> {
        Ok(Self::from_inner(json::parse(file, bytes)?))
    }

    /// Reads a model folder: `tokenizer.json`, and where they exist `tokenizer_config.json`,
    /// `special_tokens_map.json`, `generation_config.json`, `chat_template.jinja` and `chat_template.json`.
    ///
    /// # Errors
    /// [`Error::MissingFile`] without a `tokenizer.json`, [`Error::Io`], [`Error::InvalidJson`],
    /// [`Error::InvalidField`] and [`Error::InvalidMerge`] for a file that cannot be used.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        folder::read(folder)
    }

    /// Builds the tokenizer that a GGUF header describes.
    ///
    /// # Errors
    /// [`Error::UnknownTokenizerModel`] and [`Error::UnknownPreTokenizer`] for kinds that are not supported;
    /// [`Error::MissingVocabField`], [`Error::VocabLength`], [`Error::DuplicateToken`], [`Error::InvalidMerge`],
    /// [`Error::TokenIdOutOfRange`] and [`Error::MissingSpecialToken`] for a vocabulary that contradicts itself.
    pub fn from_gguf(vocab: &GgufVocab) -> Result<Self> {
        gguf::build(vocab)
    }

    fn from_inner(mut inner: Inner) -> Self {
        // `with_truncation` fails only for a truncation that is set.
        let _ = inner.with_truncation(None);
        inner.with_padding(None);
        let byte_fallback = inner
            .get_decoder()
            .and_then(|decoder| serde_json::to_string(decoder).ok())
            .is_some_and(|json| json.contains("\"ByteFallback\""));
        Self {
            inner,
            special: SpecialTokens::default(),
            bos_eos: None,
            chat_template: None,
            byte_fallback,
        }
    }

    /// Sets what `add_special_tokens` adds, in place of what the file says.
    ///
    /// # Errors
    /// [`Error::MissingSpecialToken`] when a token is asked for that the tokenizer does not have.
    pub fn with_bos_eos(mut self, policy: BosEos) -> Result<Self> {
        policy.check(&self.special)?;
        self.bos_eos = Some(policy);
        Ok(self)
    }

    /// What `add_special_tokens` adds around a text.
    ///
    /// A post-processor that adds other tokens (`[CLS]`, `[SEP]`) counts by whether they are BOS and EOS.
    pub fn bos_eos(&self) -> BosEos {
        self.bos_eos.unwrap_or_else(|| {
            let encoding = self.guarded_encode(|inner| inner.encode("", true));
            let ids = encoding
                .map(|encoding| encoding.get_ids().to_vec())
                .unwrap_or_default();
            let id = |token: &Option<SpecialToken>| token.as_ref().map(|token| token.id);
            BosEos {
                bos: ids
                    .first()
                    .is_some_and(|first| id(&self.special.bos) == Some(*first)),
                eos: ids
                    .last()
                    .is_some_and(|last| id(&self.special.eos) == Some(*last)),
            }
        })
    }

    /// Turns text into ids.
    ///
    /// Special tokens that stand in the text become their ids either way; `add_special_tokens` says whether BOS and
    /// EOS are put around it as [`Self::bos_eos`] tells. Text from a chat template has its own: pass `false`.
    ///
    /// # Errors
    /// [`Error::Encode`], such as for an unknown character when the vocabulary has no token for the unknown.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let encoding = self.guarded_encode(|inner| {
            inner.encode_fast(text, add_special_tokens && self.bos_eos.is_none())
        })?;
        let mut ids = encoding.get_ids().to_vec();
        let (bos, eos) = self.added(add_special_tokens);
        if let Some(bos) = bos {
            ids.insert(0, bos);
        }
        ids.extend(eos);
        Ok(ids)
    }

    /// Turns text into ids and tells which bytes each id stands for.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_with_offsets(&self, text: &str, add_special_tokens: bool) -> Result<Encoded> {
        let encoding = self.guarded_encode(|inner| {
            inner.encode(text, add_special_tokens && self.bos_eos.is_none())
        })?;
        let mut ids = encoding.get_ids().to_vec();
        let mut offsets: Vec<Range<usize>> = encoding
            .get_offsets()
            .iter()
            .map(|&(start, end)| start..end)
            .collect();
        let (bos, eos) = self.added(add_special_tokens);
        if let Some(bos) = bos {
            ids.insert(0, bos);
            offsets.insert(0, 0..0);
        }
        if let Some(eos) = eos {
            ids.push(eos);
            offsets.push(0..0);
        }
        Ok(Encoded { ids, offsets })
    }

    fn guarded_encode(
        &self,
        encode: impl FnOnce(&Inner) -> tokenizers::Result<tokenizers::Encoding>,
    ) -> Result<tokenizers::Encoding> {
        guarded(|| encode(&self.inner)).map_err(|reason| Error::Encode { reason })
    }

    /// The ids that an explicit policy puts before and after a text.
    fn added(&self, add_special_tokens: bool) -> (Option<u32>, Option<u32>) {
        let policy = self
            .bos_eos
            .filter(|_| add_special_tokens)
            .unwrap_or_default();
        let id = |wanted: bool, token: &Option<SpecialToken>| {
            token.as_ref().filter(|_| wanted).map(|token| token.id)
        };
        (
            id(policy.bos, &self.special.bos),
            id(policy.eos, &self.special.eos),
        )
    }

    /// Turns ids into text. Ids that no token has are left out, and so are special tokens when `skip_special`.
    ///
    /// # Errors
    /// [`Error::Decode`] when the decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        guarded(|| self.inner.decode(ids, skip_special)).map_err(|reason| Error::Decode { reason })
    }

    /// Starts a decoder that takes ids one at a time.
    pub fn text_stream(&self, skip_special: bool) -> TextStream<'_> {
        TextStream::new(self, skip_special)
    }

    /// The id of a token, spelled as in the vocabulary.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The spelling of an id in the vocabulary.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Number of tokens, added ones included.
    ///
    /// Ids may have gaps: see [`Self::check_against`] before indexing by id.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The special tokens.
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// Whether an id stands for a token that `skip_special` leaves out.
    pub fn is_special(&self, id: u32) -> bool {
        let added = self.inner.get_added_vocabulary();
        added
            .simple_id_to_token(id)
            .is_some_and(|token| added.is_special_token(&token))
    }

    /// The source of the chat template that came with the tokenizer.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// Makes sure that every id has a row in a model's embedding.
    ///
    /// # Errors
    /// [`Error::VocabularyMismatch`] with the highest id.
    pub fn check_against(&self, vocab_size: usize) -> Result<()> {
        let highest = self
            .inner
            .get_vocab(true)
            .into_iter()
            .max_by_key(|(_, id)| *id);
        match highest {
            Some((token, id)) if usize::try_from(id).map_or(true, |id| id >= vocab_size) => {
                Err(Error::VocabularyMismatch {
                    token,
                    id,
                    vocab_size,
                })
            }
            _ => Ok(()),
        }
    }

    /// Whether ids begin with BOS twice, the sign of a template and a tokenizer that both add it.
    pub fn has_double_bos(&self, ids: &[u32]) -> bool {
        match (&self.special.bos, ids) {
            (Some(bos), [first, second, ..]) => *first == bos.id && *second == bos.id,
            _ => false,
        }
    }

    /// Whether encoding a text with `add_special_tokens` would put a BOS before one that stands there already.
    pub fn would_double_bos(&self, text: &str) -> bool {
        let starts_with_bos = self
            .special
            .bos
            .as_ref()
            .is_some_and(|bos| text.starts_with(&bos.text));
        starts_with_bos && self.bos_eos().bos
    }
}

/// Runs the tokenizers library, which panics on some contradictions of a file that it does not look for.
fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> std::result::Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("unknown");
            Err(format!("the tokenizers library panicked: {text}"))
        }
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("special", &self.special)
            .field("bos_eos", &self.bos_eos)
            .finish_non_exhaustive()
    }
}
