//! Tokenizers compared with the reference, id by id.

use std::collections::HashMap;

use flametune_data::{GgufVocab, Tokenizer};
use serde::Deserialize;

use crate::fixtures::{TOKENIZERS, json, tokenizer};

#[derive(Deserialize)]
struct Row {
    text: String,
    ids: Vec<u32>,
    tokens: Vec<String>,
    /// In characters.
    offsets: Vec<(usize, usize)>,
    ids_no_special: Vec<u32>,
    decoded: String,
    decoded_keep_special: String,
}

#[test]
fn tokenizer_files_encode_and_decode_like_the_reference() {
    for name in TOKENIZERS {
        let tokenizer = tokenizer(name);
        let rows: Vec<Row> = json(&format!("tokenizers/{name}.golden.json"));
        assert_eq!(rows.len(), 44);
        for row in rows {
            let context = format!("{name}: {:?}", row.text);
            assert_eq!(
                tokenizer.encode(&row.text, true).unwrap(),
                row.ids,
                "{context}"
            );
            assert_eq!(
                tokenizer.encode(&row.text, false).unwrap(),
                row.ids_no_special,
                "{context}"
            );
            let encoded = tokenizer.encode_with_offsets(&row.text, true).unwrap();
            assert_eq!(encoded.ids, row.ids, "{context}");
            assert_eq!(encoded.ids.len(), row.tokens.len(), "{context}");
            for (&id, expected) in encoded.ids.iter().zip(&row.tokens) {
                let token = tokenizer.id_to_token(id).unwrap();
                // For the unknown, the reference lists the normalized text itself.
                let unknown = token == "<unk>" && tokenizer.token_to_id(expected).is_none();
                assert!(
                    token == *expected || unknown,
                    "{context}: {token:?}, expected {expected:?}"
                );
            }
            let characters = |byte: usize| row.text[..byte].chars().count();
            let offsets: Vec<(usize, usize)> = encoded
                .offsets
                .iter()
                .map(|range| (characters(range.start), characters(range.end)))
                .collect();
            assert_eq!(offsets, row.offsets, "{context}");
            assert_eq!(
                tokenizer.decode(&row.ids, true).unwrap(),
                row.decoded,
                "{context}"
            );
            assert_eq!(
                tokenizer.decode(&row.ids, false).unwrap(),
                row.decoded_keep_special,
                "{context}"
            );
        }
    }
}

#[derive(Deserialize)]
struct GgufCase {
    name: String,
    file: String,
    architecture: String,
    model: String,
    pre: Option<String>,
    ids: Vec<Vec<u32>>,
    decoded: HashMap<usize, String>,
}

/// The header that a converter would write for one of the tokenizer files.
fn header(file: &str) -> GgufVocab {
    let parsed: serde_json::Value = json(&format!("tokenizers/{file}.json"));
    let mut by_id: Vec<(u64, String, i32)> = parsed["model"]["vocab"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(token, id)| (id.as_u64().unwrap(), token.clone(), 1))
        .collect();
    for token in parsed["added_tokens"].as_array().unwrap() {
        let id = token["id"].as_u64().unwrap();
        by_id.retain(|(other, ..)| *other != id);
        by_id.push((id, token["content"].as_str().unwrap().to_owned(), 3));
    }
    by_id.sort();
    let pair = |pair: &serde_json::Value| {
        format!(
            "{} {}",
            pair[0].as_str().unwrap(),
            pair[1].as_str().unwrap()
        )
    };
    GgufVocab {
        tokens: by_id.iter().map(|(_, token, _)| token.clone()).collect(),
        token_types: Some(by_id.iter().map(|(.., kind)| *kind).collect()),
        merges: parsed["model"]["merges"]
            .as_array()
            .unwrap()
            .iter()
            .map(pair)
            .collect(),
        add_bos_token: Some(false),
        ..GgufVocab::default()
    }
}

#[test]
fn gguf_vocabularies_encode_and_decode_like_the_reference() {
    let rows: Vec<Row> = json("tokenizers/bytelevel_bpe.golden.json");
    let texts: Vec<&str> = rows.iter().map(|row| row.text.as_str()).collect();
    for case in json::<Vec<GgufCase>>("tokenizers/gguf.golden.json") {
        let mut vocab = header(&case.file);
        if case.model == "llama" {
            vocab.merges.clear();
            vocab.scores = Some(
                (0..vocab.tokens.len())
                    .map(|id| -((id * 7919 % 1000) as f32))
                    .collect(),
            );
        }
        vocab.architecture = Some(case.architecture);
        vocab.model = case.model;
        vocab.pre = case.pre;
        let tokenizer = Tokenizer::from_gguf(&vocab).unwrap();
        for (index, (text, ids)) in texts.iter().zip(&case.ids).enumerate() {
            let context = format!("{}: {text:?}", case.name);
            assert_eq!(tokenizer.encode(text, false).unwrap(), *ids, "{context}");
            let expected = case.decoded.get(&index).map_or(*text, String::as_str);
            assert_eq!(tokenizer.decode(ids, false).unwrap(), expected, "{context}");
        }
    }
}

/// A header built from a tokenizer file, with the file's merges, gives the ids of the file.
#[test]
fn a_gguf_header_and_its_tokenizer_file_agree() {
    for (file, pre) in [
        ("smollm_bpe", "smollm"),
        ("bytelevel_bpe", "gpt-2"),
        ("llama3_bpe", "llama-bpe"),
    ] {
        let mut vocab = header(file);
        vocab.model = "gpt2".to_owned();
        vocab.pre = Some(pre.to_owned());
        let tokenizer = Tokenizer::from_gguf(&vocab).unwrap();
        for row in json::<Vec<Row>>(&format!("tokenizers/{file}.golden.json")) {
            let encoded = tokenizer.encode(&row.text, false).unwrap();
            assert_eq!(encoded, row.ids_no_special, "{file}: {:?}", row.text);
        }
    }
}

/// What a header describes, written as files, is read back the same: ids, text and special tokens.
#[test]
fn a_gguf_vocabulary_becomes_files_that_say_the_same() {
    let rows: Vec<Row> = json("tokenizers/bytelevel_bpe.golden.json");
    for case in json::<Vec<GgufCase>>("tokenizers/gguf.golden.json") {
        for (bos, eos) in [(false, false), (true, false), (true, true)] {
            let mut vocab = header(&case.file);
            if case.model == "llama" {
                vocab.merges.clear();
                vocab.scores = Some(vec![0.0; vocab.tokens.len()]);
            }
            vocab.architecture = Some(case.architecture.clone());
            vocab.model.clone_from(&case.model);
            vocab.pre.clone_from(&case.pre);
            (vocab.bos_token_id, vocab.eos_token_id) = (Some(1), Some(2));
            vocab.eot_token_id = Some(3);
            (vocab.add_bos_token, vocab.add_eos_token) = (Some(bos), Some(eos));
            vocab.chat_template = Some("{{ messages[0].content }}".to_owned());
            let tokenizer = Tokenizer::from_gguf(&vocab).unwrap();
            let dir = tempfile::tempdir().unwrap();
            tokenizer.save_pretrained(dir.path()).unwrap();
            let again = Tokenizer::from_folder(dir.path()).unwrap();

            let context = format!("{} {bos} {eos}", case.name);
            assert_eq!(again.special(), tokenizer.special(), "{context}");
            assert_eq!(again.bos_eos(), tokenizer.bos_eos(), "{context}");
            assert_eq!(
                again.chat_template(),
                tokenizer.chat_template(),
                "{context}"
            );
            for row in &rows {
                for special in [false, true] {
                    let ids = tokenizer.encode(&row.text, special).unwrap();
                    let read = again.encode(&row.text, special).unwrap();
                    assert_eq!(read, ids, "{context}: {:?}", row.text);
                    let text = tokenizer.decode(&ids, true).unwrap();
                    assert_eq!(again.decode(&ids, true).unwrap(), text, "{context}");
                }
            }
        }
    }
}
