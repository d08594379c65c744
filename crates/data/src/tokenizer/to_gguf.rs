//! A tokenizer as the vocabulary of a GGUF header.

use serde_json::Value;

use super::gguf::GgufVocab;
use super::{Tokenizer, pre_tokenizer};
use crate::error::{Error, Result};

/// Types of tokens in a header.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

impl Tokenizer {
    /// The vocabulary that a GGUF header describes this tokenizer by, with a token for each of the
    /// `vocab_size` rows of a model's embedding; rows without a token become `[PADn]`.
    ///
    /// # Errors
    /// [`Error::NoGgufForm`] for a tokenizer that is not byte-level BPE, or cuts text in a way that
    /// has no name there; [`Error::VocabularyMismatch`] for one with more tokens than rows.
    ///
    /// # Source
    /// - llama.cpp `convert_hf_to_gguf.py`, `get_vocab_base` and `SpecialVocab`
    pub fn to_gguf(&self, vocab_size: usize) -> Result<GgufVocab> {
        self.check_against(vocab_size)?;
        let none = |what: &str| Error::NoGgufForm {
            what: what.to_owned(),
        };
        let json = self.inner.to_string(false).ok();
        let json: Value = json
            .and_then(|json| serde_json::from_str(&json).ok())
            .ok_or_else(|| none("a tokenizer that cannot be written as JSON"))?;
        let model = &json["model"];
        let merges = model["merges"]
            .as_array()
            .filter(|_| model["type"] == "BPE" && !self.byte_fallback)
            .ok_or_else(|| none("a model other than byte-level BPE"))?;
        match json["normalizer"]["type"].as_str() {
            // llama.cpp knows no normalisation; that of most text changes nothing.
            None | Some("NFC") => {}
            Some(other) => return Err(none(&format!("the normalizer {other}"))),
        }
        let ignore_merges = model["ignore_merges"] == true;
        let pre = patterns(&json["pre_tokenizer"])
            .and_then(|patterns| pre_tokenizer::name_of(&patterns, ignore_merges))
            .ok_or_else(|| none("the way it cuts text"))?;
        let merge = |merge: &Value| match merge {
            Value::String(merge) => Some(merge.clone()),
            Value::Array(halves) => match halves.as_slice() {
                [Value::String(left), Value::String(right)] => Some(format!("{left} {right}")),
                _ => None,
            },
            _ => None,
        };
        let merges = merges.iter().map(merge).collect::<Option<Vec<_>>>();
        let merges = merges.ok_or_else(|| none("merges of another shape"))?;
        let (tokens, token_types) = self.table(&json["added_tokens"], vocab_size);
        let special = self.special();
        let id = |token: &Option<super::SpecialToken>| token.as_ref().map(|token| token.id);
        let bos_eos = self.bos_eos();
        let eos = id(&special.eos);
        Ok(GgufVocab {
            architecture: None,
            model: "gpt2".to_owned(),
            pre: Some(pre.to_owned()),
            tokens,
            scores: None,
            token_types: Some(token_types),
            merges,
            bos_token_id: id(&special.bos),
            eos_token_id: eos,
            // The end of a turn, where it is not that of a text.
            eot_token_id: special
                .eos_ids
                .iter()
                .copied()
                .find(|&other| Some(other) != eos),
            unknown_token_id: id(&special.unk),
            padding_token_id: id(&special.pad),
            add_bos_token: Some(bos_eos.bos),
            add_eos_token: bos_eos.eos.then_some(true),
            add_space_prefix: None,
            chat_template: self.chat_template().map(str::to_owned),
        })
    }

    /// The token of each row, and its type.
    fn table(&self, added: &Value, vocab_size: usize) -> (Vec<String>, Vec<i32>) {
        let mut tokens = Vec::with_capacity(vocab_size);
        let mut types = Vec::with_capacity(vocab_size);
        let added: std::collections::HashMap<u64, bool> = added
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|token| Some((token["id"].as_u64()?, token["special"] == true)))
            .collect();
        let rows = u32::try_from(vocab_size).unwrap_or(u32::MAX);
        for id in 0..rows {
            let (token, kind) = match self.id_to_token(id) {
                None => (format!("[PAD{id}]"), UNUSED),
                Some(token) => match added.get(&u64::from(id)) {
                    Some(true) => (token, CONTROL),
                    Some(false) => (token, USER_DEFINED),
                    None => (token, NORMAL),
                },
            };
            tokens.push(token);
            types.push(kind);
        }
        (tokens, types)
    }
}

/// The expressions that text is cut by, one after the other.
fn patterns(step: &Value) -> Option<Vec<String>> {
    match step["type"].as_str()? {
        "Sequence" => {
            let steps = step["pretokenizers"].as_array()?;
            let each = steps.iter().map(patterns).collect::<Option<Vec<_>>>()?;
            Some(each.concat())
        }
        "Split" if step["behavior"] == "Isolated" && step["invert"] != true => {
            Some(vec![step["pattern"]["Regex"].as_str()?.to_owned()])
        }
        "Digits" if step["individual_digits"] == true => Some(vec![r"\p{N}".to_owned()]),
        "ByteLevel" if step["add_prefix_space"] == true => None,
        "ByteLevel" if step["use_regex"] == false => Some(Vec::new()),
        "ByteLevel" => Some(vec![pre_tokenizer::GPT2.to_owned()]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> Vec<u8> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/tokenizers");
        std::fs::read(format!("{folder}/{name}.json")).unwrap()
    }

    fn tokenizer(name: &str) -> Tokenizer {
        Tokenizer::from_json(name, &fixture(name)).unwrap()
    }

    #[test]
    fn a_vocabulary_that_went_there_and_back_gives_the_same_ids() {
        let texts = [
            "Hello, world!  Two  spaces\n\n\ttabs and 12345 digits",
            "Grüße, naïve 🦙 text; it's 3.14 — isn't it?",
            "",
        ];
        for name in ["bytelevel_bpe", "smollm_bpe", "llama3_bpe"] {
            let tokenizer = tokenizer(name);
            let rows = tokenizer.vocab_size() + 3;
            let vocab = tokenizer.to_gguf(rows).unwrap();
            assert_eq!(vocab.tokens.len(), rows, "{name}");
            assert_eq!(vocab.tokens[rows - 1], format!("[PAD{}]", rows - 1));
            let back = Tokenizer::from_gguf(&vocab).unwrap();
            for text in texts {
                let ids = tokenizer.encode(text, false).unwrap();
                assert_eq!(back.encode(text, false).unwrap(), ids, "{name}: {text:?}");
                assert_eq!(
                    back.decode(&ids, true).unwrap(),
                    tokenizer.decode(&ids, true).unwrap()
                );
            }
        }
    }

    #[test]
    fn other_tokenizers_are_refused_by_what_they_are() {
        for name in ["llama2_bpe_bytefallback", "unigram", "wordpiece"] {
            let error = tokenizer(name).to_gguf(100_000).unwrap_err().to_string();
            assert!(
                error.starts_with("the tokenizer has no form in a GGUF header: "),
                "{error}"
            );
        }
        assert!(matches!(
            tokenizer("smollm_bpe").to_gguf(3),
            Err(Error::VocabularyMismatch { .. })
        ));
    }
}
