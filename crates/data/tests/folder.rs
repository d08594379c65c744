//! Tokenizer files of a model folder.

use std::path::Path;

use flametune_data::{BosEos, ChatInput, ChatTemplate, Error, Message, Tokenizer};
use tempfile::TempDir;

use crate::fixtures::path;

/// A folder with the chat tokenizer and the given files.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::new().unwrap();
    std::fs::copy(
        path("chat/tokenizer/tokenizer.json"),
        folder.path().join("tokenizer.json"),
    )
    .unwrap();
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

fn load(files: &[(&str, &str)]) -> Tokenizer {
    Tokenizer::from_folder(folder(files).path()).unwrap()
}

#[test]
fn special_tokens_come_from_every_file() {
    let tokenizer = load(&[
        (
            "tokenizer_config.json",
            r#"{"bos_token": {"content": "<|endoftext|>", "lstrip": false}, "pad_token": null}"#,
        ),
        (
            "special_tokens_map.json",
            r#"{"bos_token": "<pad>", "eos_token": "<|im_end|>"}"#,
        ),
        (
            "generation_config.json",
            r#"{"eos_token_id": [0, 2], "pad_token_id": 3}"#,
        ),
    ]);
    let special = tokenizer.special();
    let text = |token: &Option<flametune_data::SpecialToken>| {
        token.as_ref().map(|token| token.text.clone())
    };
    assert_eq!(text(&special.bos).as_deref(), Some("<|endoftext|>"));
    assert_eq!(text(&special.eos).as_deref(), Some("<|im_end|>"));
    assert_eq!(text(&special.pad).as_deref(), Some("<pad>"));
    assert_eq!(special.unk, None);
    assert_eq!(special.eos_ids, [2, 0]);
    assert_eq!(tokenizer.bos_eos(), BosEos::default());
}

#[test]
fn bos_and_eos_are_added_as_the_configuration_says() {
    let config =
        r#"{"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "add_bos_token": true}"#;
    let tokenizer = load(&[("tokenizer_config.json", config)]);
    let plain = tokenizer.encode("Hi", false).unwrap();
    assert_eq!(
        tokenizer.encode("Hi", true).unwrap(),
        [vec![0], plain.clone()].concat()
    );
    assert!(tokenizer.would_double_bos("<|endoftext|>Hi"));
    let doubled = tokenizer.encode("<|endoftext|>Hi", true).unwrap();
    assert!(tokenizer.has_double_bos(&doubled) && !tokenizer.has_double_bos(&doubled[1..]));
    let both = tokenizer
        .clone()
        .with_bos_eos(BosEos {
            bos: true,
            eos: true,
        })
        .unwrap();
    assert_eq!(
        both.encode("Hi", true).unwrap(),
        [vec![0], plain.clone(), vec![2]].concat()
    );
    let encoded = both.encode_with_offsets("Hi", true).unwrap();
    assert_eq!(encoded.ids, both.encode("Hi", true).unwrap());
    assert_eq!(
        (encoded.offsets[0].clone(), encoded.offsets[1].clone()),
        (0..0, 0..1)
    );
    let error = load(&[])
        .with_bos_eos(BosEos {
            bos: true,
            eos: false,
        })
        .unwrap_err();
    assert!(
        matches!(error, Error::MissingSpecialToken { token: "bos", .. }),
        "{error}"
    );
}

#[test]
fn the_post_processor_tells_what_it_adds() {
    let folder = TempDir::new().unwrap();
    std::fs::copy(
        path("tokenizers/llama3_bpe.json"),
        folder.path().join("tokenizer.json"),
    )
    .unwrap();
    std::fs::write(
        folder.path().join("tokenizer_config.json"),
        r#"{"bos_token": "<|begin_of_text|>"}"#,
    )
    .unwrap();
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    assert_eq!(
        tokenizer.bos_eos(),
        BosEos {
            bos: true,
            eos: false
        }
    );
    assert!(tokenizer.would_double_bos("<|begin_of_text|>x"));
}

#[test]
fn a_special_token_beyond_the_vocabulary_is_noticed_by_the_model_check() {
    let tokenizer = load(&[("tokenizer_config.json", r#"{"pad_token": "<new>"}"#)]);
    let size = load(&[]).vocab_size();
    assert_eq!(tokenizer.vocab_size(), size + 1);
    assert!(
        matches!(tokenizer.check_against(size), Err(Error::VocabularyMismatch { token, .. }) if token == "<new>")
    );
}

#[test]
fn truncation_and_padding_of_the_file_are_off() {
    let mut json: serde_json::Value = crate::fixtures::json("chat/tokenizer/tokenizer.json");
    json["truncation"] = serde_json::json!(
        {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    );
    json["padding"] = serde_json::json!({"strategy": {"Fixed": 40}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 3, "pad_type_id": 0, "pad_token": "<pad>"});
    let tokenizer = Tokenizer::from_json("t", json.to_string().as_bytes()).unwrap();
    assert_eq!(
        tokenizer.encode("Hello!", true).unwrap().len(),
        load(&[]).encode("Hello!", true).unwrap().len()
    );
}

#[test]
fn the_template_file_wins_over_the_configuration() {
    let messages = [Message::user("x")];
    let render = |files: &[(&str, &str)]| {
        let folder = folder(files);
        let template = ChatTemplate::from_folder(folder.path()).unwrap()?;
        let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
        assert_eq!(tokenizer.chat_template(), Some(template.source()));
        Some(template.render(&ChatInput::new(&messages)).unwrap())
    };
    let named = r#"{"chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]}"#;
    let config = ("tokenizer_config.json", r#"{"chat_template": "C"}"#);
    let json = ("chat_template.json", r#"{"chat_template": "J"}"#);
    assert_eq!(render(&[]), None);
    assert_eq!(
        render(&[("tokenizer_config.json", named)]).as_deref(),
        Some("D")
    );
    assert_eq!(render(&[config]).as_deref(), Some("C"));
    assert_eq!(render(&[config, json]).as_deref(), Some("J"));
    assert_eq!(
        render(&[config, json, ("chat_template.jinja", "F")]).as_deref(),
        Some("F")
    );
}

#[test]
fn unusable_files_are_named() {
    let check = |files: &[(&str, &str)], expected: &str| {
        let folder = folder(files);
        let message = Tokenizer::from_folder(folder.path())
            .unwrap_err()
            .to_string();
        assert_eq!(
            message.replace(&folder.path().display().to_string(), "DIR"),
            expected
        );
    };
    check(
        &[("tokenizer_config.json", r#"{"bos_token": 1}"#)],
        "DIR/tokenizer_config.json: bos_token must be a string or an object with content, got a number",
    );
    check(
        &[("tokenizer_config.json", r#"{"add_bos_token": "yes"}"#)],
        "DIR/tokenizer_config.json: add_bos_token must be a boolean, got a string",
    );
    check(
        &[("generation_config.json", r#"{"eos_token_id": [1, -1]}"#)],
        "DIR/generation_config.json: eos_token_id must be a token id or a list of token ids, got a number",
    );
    check(
        &[(
            "tokenizer_config.json",
            r#"{"chat_template": [{"name": "default"}]}"#,
        )],
        "DIR/tokenizer_config.json: chat_template[0] must be a string or a list of objects with name and template, \
         got an object",
    );
    check(
        &[("special_tokens_map.json", "[]")],
        "DIR/special_tokens_map.json:1:0: invalid type: sequence, expected a map",
    );
    check(
        &[("generation_config.json", "{\n\"a\": ")],
        "DIR/generation_config.json:2:5: EOF while parsing a value",
    );
    let empty = TempDir::new().unwrap();
    let error = Tokenizer::from_folder(empty.path()).unwrap_err();
    assert!(
        matches!(
            error,
            Error::MissingFile {
                file: "tokenizer.json",
                ..
            }
        ),
        "{error}"
    );
    assert!(
        ChatTemplate::from_folder(Path::new("/nonexistent"))
            .unwrap()
            .is_none()
    );
}
