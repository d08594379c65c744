//! The tokenizer data that a GGUF file carries.

use super::metadata::{FromValue, Metadata};
use crate::error::Result;

/// The vocabulary of a GGUF file, as plain data.
///
/// What to do with it depends on [`model`](Self::model): `gpt2` is byte-level BPE driven by
/// `merges`, `llama` is SentencePiece driven by `scores`.
/// Fields carry the names of the metadata keys under `tokenizer.ggml`.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufVocabulary {
    /// `general.architecture`, which tells apart kinds of `llama` vocabularies.
    pub architecture: Option<String>,
    /// `model`: the kind of tokenizer.
    pub model: String,
    /// `pre`: the name of the rule that cuts text before byte-pair encoding.
    pub pre: Option<String>,
    /// `tokens`: the text of each id.
    pub tokens: Vec<String>,
    /// `scores`: one for each token.
    pub scores: Option<Vec<f32>>,
    /// `token_type`, one for each token: 1 normal, 2 unknown, 3 control, 4 user-defined,
    /// 5 unused, 6 byte.
    pub token_types: Option<Vec<i32>>,
    /// `merges`: two tokens separated by a space, best first.
    pub merges: Vec<String>,
    /// `bos_token_id`: begins a text.
    pub bos_token_id: Option<u32>,
    /// `eos_token_id`: ends a text.
    pub eos_token_id: Option<u32>,
    /// `eot_token_id`: ends a turn.
    pub eot_token_id: Option<u32>,
    /// `unknown_token_id`: stands for what has no token.
    pub unknown_token_id: Option<u32>,
    /// `padding_token_id`: fills short rows of a batch.
    pub padding_token_id: Option<u32>,
    /// `add_bos_token`: whether texts begin with `bos_token_id`.
    pub add_bos_token: Option<bool>,
    /// `add_eos_token`: whether texts end with `eos_token_id`.
    pub add_eos_token: Option<bool>,
    /// `add_space_prefix`: whether texts get a space in front.
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.chat_template`, in Jinja.
    pub chat_template: Option<String>,
}

impl GgufVocabulary {
    /// Reads the vocabulary; `None` when the file carries no tokenizer.
    ///
    /// # Errors
    /// - [`MissingKey`](crate::Error::MissingKey) when there is a tokenizer without tokens
    /// - [`InvalidValue`](crate::Error::InvalidValue) for a key of the wrong type, scores or types
    ///   of another number than the tokens, and special ids beyond the tokens
    pub fn read(metadata: &Metadata) -> Result<Option<Self>> {
        let Some(model) = metadata.get::<&str>("tokenizer.ggml.model")? else {
            return Ok(None);
        };
        let tokens = metadata.require::<&[String]>("tokenizer.ggml.tokens")?;
        let id = |key: &str| special_id(metadata, key, tokens.len());
        let text = |key: &str| Ok(metadata.get::<&str>(key)?.map(str::to_owned));
        Ok(Some(Self {
            architecture: text("general.architecture")?,
            model: model.to_owned(),
            pre: text("tokenizer.ggml.pre")?,
            tokens: tokens.to_vec(),
            scores: per_token(metadata, "tokenizer.ggml.scores", tokens.len())?,
            token_types: per_token(metadata, "tokenizer.ggml.token_type", tokens.len())?,
            merges: metadata
                .get::<&[String]>("tokenizer.ggml.merges")?
                .unwrap_or_default()
                .to_vec(),
            bos_token_id: id("tokenizer.ggml.bos_token_id")?,
            eos_token_id: id("tokenizer.ggml.eos_token_id")?,
            eot_token_id: id("tokenizer.ggml.eot_token_id")?,
            unknown_token_id: id("tokenizer.ggml.unknown_token_id")?,
            padding_token_id: id("tokenizer.ggml.padding_token_id")?,
            add_bos_token: metadata.get("tokenizer.ggml.add_bos_token")?,
            add_eos_token: metadata.get("tokenizer.ggml.add_eos_token")?,
            add_space_prefix: metadata.get("tokenizer.ggml.add_space_prefix")?,
            chat_template: text("tokenizer.chat_template")?,
        }))
    }
}

fn special_id(metadata: &Metadata, key: &str, n_tokens: usize) -> Result<Option<u32>> {
    match metadata.get::<u32>(key)? {
        Some(id) if id as usize >= n_tokens => {
            Err(metadata.invalid(key, format!("below the number of tokens, {n_tokens}"), id))
        }
        id => Ok(id),
    }
}

/// One item for each token, or none at all.
fn per_token<'a, T: Clone + 'a>(
    metadata: &'a Metadata,
    key: &str,
    n_tokens: usize,
) -> Result<Option<Vec<T>>>
where
    &'a [T]: FromValue<'a>,
{
    match metadata.get::<&[T]>(key)? {
        None => Ok(None),
        Some(items) if items.len() == n_tokens => Ok(Some(items.to_vec())),
        Some(items) => Err(metadata.invalid(
            key,
            format!("one for each of {n_tokens} tokens"),
            items.len(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::super::value::{Array, Value};
    use super::*;

    fn pairs() -> Vec<(&'static str, Value)> {
        vec![
            ("tokenizer.ggml.model", Value::String("gpt2".into())),
            (
                "tokenizer.ggml.tokens",
                Value::Array(Array::String(vec!["a".into(), "b".into()])),
            ),
        ]
    }

    fn read(extra: (&'static str, Value)) -> Result<Option<GgufVocabulary>> {
        let mut pairs = pairs();
        pairs.push(extra);
        GgufVocabulary::read(&Metadata::new("m.gguf", pairs).unwrap())
    }

    #[test]
    fn a_file_without_a_tokenizer_has_no_vocabulary() {
        let metadata = Metadata::new("m.gguf", [("general.name", Value::U8(0))]).unwrap();
        assert_eq!(GgufVocabulary::read(&metadata).unwrap(), None);
    }

    #[test]
    fn ids_and_lengths_agree_with_the_tokens() {
        let vocabulary = read(("tokenizer.ggml.eos_token_id", Value::U32(1)))
            .unwrap()
            .unwrap();
        assert_eq!(
            (vocabulary.eos_token_id, vocabulary.bos_token_id),
            (Some(1), None)
        );
        assert_eq!(
            read(("tokenizer.ggml.eos_token_id", Value::U32(2)))
                .unwrap_err()
                .to_string(),
            "m.gguf: key `tokenizer.ggml.eos_token_id` must be below the number of tokens, 2, got 2"
        );
        assert_eq!(
            read(("tokenizer.ggml.scores", Value::Array(Array::F32(vec![0.0]))))
                .unwrap_err()
                .to_string(),
            "m.gguf: key `tokenizer.ggml.scores` must be one for each of 2 tokens, got 1"
        );
    }
}
