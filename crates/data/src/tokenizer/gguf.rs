//! Building a tokenizer from the vocabulary in a GGUF header.

use std::collections::HashMap;

use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as DecoderSequence;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Merges};
use tokenizers::normalizers::{Prepend, Replace, Sequence as NormalizerSequence};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizerSequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior,
    Tokenizer as Inner,
};

use super::special::{BosEos, SpecialToken, SpecialTokens};
use super::{Tokenizer, pre_tokenizer, sentencepiece};
use crate::error::{Error, Result};

/// Kinds of vocabulary that can be built.
const MODELS: &[&str] = &["gpt2", "llama"];
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
/// The space of SentencePiece.
pub(super) const SPACE: &str = "\u{2581}";

/// Control tokens that end a turn in one model family or another; llama.cpp knows them by their text as well.
const END_OF_TURN: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
];

/// The tokenizer part of a GGUF header, read by whoever parses the file.
///
/// Fields carry the names of the metadata keys under `tokenizer.ggml`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GgufVocab {
    /// `general.architecture`, which tells apart kinds of `llama` vocabularies.
    pub architecture: Option<String>,
    /// `model`: `gpt2` for byte-level BPE, `llama` for SentencePiece.
    pub model: String,
    /// `pre`: how text is cut before byte-level BPE.
    pub pre: Option<String>,
    /// `tokens`: the text of each id.
    pub tokens: Vec<String>,
    /// `scores`: the higher, the earlier a SentencePiece token is merged.
    pub scores: Option<Vec<f32>>,
    /// `token_type`: 3 marks control tokens, 4 user-defined ones.
    pub token_types: Option<Vec<i32>>,
    /// `merges`: pairs with a space between, best first.
    pub merges: Vec<String>,
    /// `bos_token_id`.
    pub bos_token_id: Option<u32>,
    /// `eos_token_id`.
    pub eos_token_id: Option<u32>,
    /// `eot_token_id`: ends a turn.
    pub eot_token_id: Option<u32>,
    /// `unknown_token_id`.
    pub unknown_token_id: Option<u32>,
    /// `padding_token_id`.
    pub padding_token_id: Option<u32>,
    /// `add_bos_token`.
    pub add_bos_token: Option<bool>,
    /// `add_eos_token`.
    pub add_eos_token: Option<bool>,
    /// `add_space_prefix`.
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
}

/// Builds the tokenizer.
///
/// # Source
/// - reference: transformers `integrations/gguf/gguf_tokenizer_mapping.py`; llama.cpp `src/llama-vocab.cpp` for
///   pre-tokenizers, defaults and end-of-turn tokens
pub(super) fn build(vocab: &GgufVocab) -> Result<Tokenizer> {
    let ids = token_ids(vocab)?;
    let kind = match vocab.model.as_str() {
        "gpt2" => Kind::ByteLevel(pre_tokenizer::find(vocab.pre.as_deref())?),
        "llama" => Kind::sentencepiece(vocab.architecture.as_deref()),
        model => {
            return Err(Error::UnknownTokenizerModel {
                model: model.to_owned(),
                known: MODELS,
            });
        }
    };
    let special = special_tokens(vocab, &kind)?;
    let mut inner = match &kind {
        Kind::ByteLevel(pre) => byte_level(vocab, &ids, pre)?,
        Kind::Llama | Kind::Phi3 | Kind::Gemma => sentencepiece_model(vocab, ids, &kind, &special)?,
    };
    add_tokens(&mut inner, vocab, &special)?;
    let policy = BosEos {
        bos: vocab.add_bos_token.unwrap_or(match kind {
            Kind::ByteLevel(pre) => pre.add_bos && special.bos.is_some(),
            _ => true,
        }),
        eos: vocab.add_eos_token.unwrap_or(false),
    };
    policy.check(&special)?;
    let mut tokenizer = Tokenizer::from_inner(inner);
    tokenizer.special = special;
    tokenizer.bos_eos = Some(policy);
    tokenizer.chat_template.clone_from(&vocab.chat_template);
    Ok(tokenizer)
}

enum Kind {
    ByteLevel(&'static pre_tokenizer::Rule),
    Llama,
    Phi3,
    Gemma,
}

impl Kind {
    fn sentencepiece(architecture: Option<&str>) -> Self {
        match architecture {
            Some("phi3") => Self::Phi3,
            Some("gemma" | "gemma2" | "gemma3") => Self::Gemma,
            _ => Self::Llama,
        }
    }
}

/// Checks the arrays against each other and maps each token to its id.
fn token_ids(vocab: &GgufVocab) -> Result<HashMap<String, u32>> {
    let expected = vocab.tokens.len();
    let lengths = [
        ("tokenizer.ggml.scores", vocab.scores.as_ref().map(Vec::len)),
        (
            "tokenizer.ggml.token_type",
            vocab.token_types.as_ref().map(Vec::len),
        ),
    ];
    for (field, length) in lengths {
        if let Some(got) = length.filter(|&got| got != expected) {
            return Err(Error::VocabLength {
                field,
                expected,
                got,
            });
        }
    }
    if vocab.tokens.is_empty() {
        return Err(Error::MissingVocabField {
            field: "tokenizer.ggml.tokens",
            model: vocab.model.clone(),
        });
    }
    let mut ids = HashMap::with_capacity(expected);
    for (id, token) in (0_u32..).zip(&vocab.tokens) {
        // llama.cpp names empty tokens like this.
        let token = if token.is_empty() {
            format!("[EMPTY_{id}]")
        } else {
            token.clone()
        };
        if let Some(first) = ids.insert(token.clone(), id) {
            return Err(Error::DuplicateToken {
                token,
                first,
                second: id,
            });
        }
    }
    Ok(ids)
}

fn special_tokens(vocab: &GgufVocab, kind: &Kind) -> Result<SpecialTokens> {
    let token = |field: &str, id: Option<u32>| -> Result<Option<SpecialToken>> {
        let Some(id) = id else {
            return Ok(None);
        };
        let text = usize::try_from(id)
            .ok()
            .and_then(|index| vocab.tokens.get(index));
        text.map(|text| {
            Some(SpecialToken {
                id,
                text: text.clone(),
            })
        })
        .ok_or_else(|| Error::TokenIdOutOfRange {
            field: format!("tokenizer.ggml.{field}"),
            id: u64::from(id),
            vocab_size: vocab.tokens.len(),
        })
    };
    // SentencePiece vocabularies begin with <unk>, <s>, </s> unless the header says otherwise.
    let usual = |given: Option<u32>, usual: u32| {
        let exists = usize::try_from(usual).is_ok_and(|index| index < vocab.tokens.len());
        given.or((exists && !matches!(kind, Kind::ByteLevel(_))).then_some(usual))
    };
    let mut special = SpecialTokens {
        bos: token("bos_token_id", usual(vocab.bos_token_id, 1))?,
        eos: token("eos_token_id", usual(vocab.eos_token_id, 2))?,
        pad: token("padding_token_id", vocab.padding_token_id)?,
        unk: token("unknown_token_id", usual(vocab.unknown_token_id, 0))?,
        eos_ids: Vec::new(),
    };
    let eot = token("eot_token_id", vocab.eot_token_id)?;
    for id in special
        .eos
        .iter()
        .chain(&eot)
        .map(|token| token.id)
        .collect::<Vec<_>>()
    {
        special.add_eos_id(id);
    }
    let types = vocab.token_types.as_deref().unwrap_or_default();
    for ((id, text), token_type) in (0_u32..).zip(&vocab.tokens).zip(types) {
        if *token_type == CONTROL && END_OF_TURN.contains(&text.as_str()) {
            special.add_eos_id(id);
        }
    }
    Ok(special)
}

/// Control tokens become special, user-defined ones are found in text as a whole.
fn add_tokens(inner: &mut Inner, vocab: &GgufVocab, special: &SpecialTokens) -> Result<()> {
    let fail = |error: tokenizers::Error| Error::Encode {
        reason: error.to_string(),
    };
    let token = |text: &String, special| AddedToken::from(text.as_str(), special).normalized(false);
    let types = vocab.token_types.as_deref().unwrap_or_default();
    let of_type = |wanted: i32| {
        vocab
            .tokens
            .iter()
            .zip(types)
            .filter(move |(_, token_type)| **token_type == wanted)
            .map(|(text, _)| text)
    };
    let named = special.named().map(|(_, named)| &named.text);
    let control: Vec<_> = of_type(CONTROL)
        .chain(named)
        .map(|text| token(text, true))
        .collect();
    inner.add_special_tokens(control).map_err(fail)?;
    // A token that the model spells otherwise, such as a run of spaces, would get a new id.
    let user: Vec<_> = of_type(USER_DEFINED)
        .filter(|text| inner.token_to_id(text).is_some())
        .map(|text| token(text, false))
        .collect();
    inner.add_tokens(user).map_err(fail)?;
    Ok(())
}

/// Byte-level BPE: every byte has a printable character, and text is cut by regular expressions first.
fn byte_level(
    vocab: &GgufVocab,
    ids: &HashMap<String, u32>,
    pre: &pre_tokenizer::Rule,
) -> Result<Inner> {
    if vocab.merges.is_empty() {
        return Err(Error::MissingVocabField {
            field: "tokenizer.ggml.merges",
            model: vocab.model.clone(),
        });
    }
    let merges = file_merges(&vocab.merges, ids)?;
    let model = bpe(BPE::builder().ignore_merges(pre.ignore_merges), ids, merges)?;
    let mut steps = Vec::with_capacity(pre.patterns.len() + 1);
    for pattern in pre.patterns {
        let pattern = SplitPattern::Regex((*pattern).to_owned());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
        steps.push(PreTokenizerWrapper::Split(split.map_err(|error| {
            Error::Encode {
                reason: error.to_string(),
            }
        })?));
    }
    steps.push(PreTokenizerWrapper::ByteLevel(ByteLevel::new(
        false, true, false,
    )));
    let mut inner = Inner::new(model);
    inner.with_pre_tokenizer(Some(PreTokenizerSequence::new(steps)));
    inner.with_decoder(Some(ByteLevel::default()));
    Ok(inner)
}

/// BPE over characters with bytes to fall back on, its merges derived from the scores.
fn sentencepiece_model(
    vocab: &GgufVocab,
    mut ids: HashMap<String, u32>,
    kind: &Kind,
    special: &SpecialTokens,
) -> Result<Inner> {
    if matches!(kind, Kind::Gemma) {
        sentencepiece::respell_spaces(&mut ids);
    }
    let merges = if !vocab.merges.is_empty() {
        file_merges(&vocab.merges, &ids)?
    } else if matches!(kind, Kind::Gemma) {
        sentencepiece::merges_by_position(&ids)
    } else {
        let scores = vocab
            .scores
            .as_deref()
            .ok_or_else(|| Error::MissingVocabField {
                field: "tokenizer.ggml.scores",
                model: vocab.model.clone(),
            })?;
        sentencepiece::merges_by_score(&ids, scores)
    };
    let mut builder = BPE::builder().fuse_unk(true).byte_fallback(true);
    if let Some(unk) = &special.unk {
        builder = builder.unk_token(unk.text.clone());
    }
    let mut inner = Inner::new(bpe(builder, &ids, merges)?);
    let prefix = vocab
        .add_space_prefix
        .unwrap_or(!matches!(kind, Kind::Gemma));
    cut_at_spaces(&mut inner, kind, prefix).map_err(|error| Error::Encode {
        reason: error.to_string(),
    })?;
    Ok(inner)
}

/// Sets how spaces become `▁` and back.
fn cut_at_spaces(inner: &mut Inner, kind: &Kind, prefix: bool) -> tokenizers::Result<()> {
    let replace = Replace::new(" ", SPACE)?;
    match kind {
        Kind::Gemma => {
            inner.with_normalizer(Some(replace))?;
            let split = Split::new(" ", SplitDelimiterBehavior::MergedWithPrevious, false)?;
            inner.with_pre_tokenizer(Some(split));
        }
        Kind::Phi3 => {
            let mut steps = vec![NormalizerWrapper::Replace(replace)];
            if prefix {
                steps.insert(
                    0,
                    NormalizerWrapper::Prepend(Prepend::new(SPACE.to_owned())),
                );
            }
            inner.with_normalizer(Some(NormalizerSequence::new(steps)))?;
        }
        Kind::Llama | Kind::ByteLevel(_) => {
            let scheme = if prefix {
                PrependScheme::First
            } else {
                PrependScheme::Never
            };
            inner.with_pre_tokenizer(Some(Metaspace::new('\u{2581}', scheme, false)));
        }
    }
    let mut steps = vec![
        DecoderWrapper::Replace(Replace::new(SPACE, " ")?),
        DecoderWrapper::ByteFallback(ByteFallback::new()),
        DecoderWrapper::Fuse(Fuse::new()),
    ];
    if prefix {
        steps.push(DecoderWrapper::Strip(Strip::new(' ', 1, 0)));
    }
    inner.with_decoder(Some(DecoderSequence::new(steps)));
    Ok(())
}

fn bpe(
    builder: tokenizers::models::bpe::BpeBuilder,
    ids: &HashMap<String, u32>,
    merges: Merges,
) -> Result<BPE> {
    let vocab: tokenizers::models::bpe::Vocab =
        ids.iter().map(|(token, id)| (token.clone(), *id)).collect();
    builder
        .vocab_and_merges(vocab, merges)
        .build()
        .map_err(|error| Error::Encode {
            reason: error.to_string(),
        })
}

/// The merges of the header, each checked to yield a token.
fn file_merges(merges: &[String], ids: &HashMap<String, u32>) -> Result<Merges> {
    let parse = |(index, merge): (usize, &String)| {
        let invalid = |reason| Error::InvalidMerge {
            index,
            merge: merge.clone(),
            reason,
        };
        // The first half has at least one character, which may be a space.
        let first = merge.chars().next().map_or(0, char::len_utf8);
        let space = merge[first..]
            .find(' ')
            .ok_or_else(|| invalid("there is no space between two halves"))?;
        let (left, right) = (&merge[..first + space], &merge[first + space + 1..]);
        if !ids.contains_key(left) || !ids.contains_key(right) {
            return Err(invalid("one of its halves is not in the vocabulary"));
        }
        if !ids.contains_key(&format!("{left}{right}")) {
            return Err(invalid("its result is not in the vocabulary"));
        }
        Ok((left.to_owned(), right.to_owned()))
    };
    merges.iter().enumerate().map(parse).collect()
}

#[cfg(test)]
mod tests;
