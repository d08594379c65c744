//! Output that follows schemas and expressions, whatever the model would rather say.

use flametune_infer::{
    Engine, Error, FinishReason, GenerateRequest, Guide, GuideFactory, SamplingParams, TokenText,
};

use crate::engine::{collect, options};
use crate::model::load;

/// The end of the output: the token of these models that ends a text.
const EOS: u32 = 2;

/// A vocabulary as large as the models', with a byte for each of the first ids after three special
/// ones.
fn factory() -> GuideFactory {
    let special = |name: &str| TokenText::Special(name.to_owned());
    let mut tokens = vec![special("<pad>"), special("<s>"), special("</s>")];
    tokens.extend((0..=255).map(|byte| TokenText::Bytes(vec![byte])));
    tokens.resize(272, TokenText::Unused);
    GuideFactory::new(&tokens, &[EOS]).unwrap()
}

fn answers(guide: &Guide, temperature: f32) -> Vec<(String, FinishReason)> {
    let engine = Engine::start(load("llama"), options()).unwrap();
    let params = SamplingParams {
        temperature,
        seed: 5,
        max_tokens: 55,
        stop_token_ids: vec![EOS],
        ..SamplingParams::default()
    };
    let mut request = GenerateRequest::new(vec![40, 50, 60], params);
    request.n = 4;
    request.guide = Some(guide.clone());
    let answer = collect(&mut engine.submit(request).unwrap(), 4).unwrap();
    let text = |tokens: &[u32]| {
        let bytes: Vec<u8> = tokens.iter().map(|&id| (id - 3) as u8).collect();
        // An output that was cut off may end within a character.
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let outputs = answer.outputs.iter();
    outputs
        .map(|output| (text(&output.tokens), output.finish_reason))
        .collect()
}

#[test]
fn choices_and_expressions_are_followed() {
    let factory = factory();
    let choice = factory.choice(&["yes", "no", "a+b?"]).unwrap();
    for (text, reason) in answers(&choice, 1.0) {
        assert!(["yes", "no", "a+b?"].contains(&text.as_str()), "{text}");
        assert!(matches!(
            reason,
            FinishReason::Stopped | FinishReason::StopToken(EOS)
        ));
    }
    let date = factory.regex("[0-9]{4}-[01][0-9]").unwrap();
    for temperature in [0.0, 1.5] {
        for (text, _) in answers(&date, temperature) {
            let bytes = text.as_bytes();
            assert!(text.len() == 7 && bytes[4] == b'-', "{text}");
            assert!(b"01".contains(&bytes[5]), "{text}");
        }
    }
    assert!(matches!(factory.regex("[0-9"), Err(Error::Guide { .. })));
    assert!(matches!(
        factory.choice::<&str>(&[]),
        Err(Error::Guide { .. })
    ));
}

#[test]
fn json_follows_its_schema() {
    let factory = factory();
    let schema = r#"{
        "type": "object",
        "properties": {"ok": {"type": "boolean"}, "n": {"enum": [1, 22]}},
        "required": ["ok", "n"],
        "additionalProperties": false
    }"#;
    let guide = factory.json_schema(schema).unwrap();
    let mut complete = 0;
    for (text, reason) in answers(&guide, 1.0) {
        if reason == FinishReason::Length {
            continue;
        }
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(value["ok"].is_boolean(), "{text}");
        assert!(
            [1, 22].map(serde_json::Value::from).contains(&value["n"]),
            "{text}"
        );
        complete += 1;
    }
    assert!(complete > 0);
    for (text, _) in answers(&factory.json_object().unwrap(), 0.7) {
        assert!(text.trim_start().starts_with('{'), "{text}");
    }
    for wrong in ["{", "{\"type\": \"nothing\"}"] {
        let error = factory.json_schema(wrong).unwrap_err();
        assert!(matches!(error, Error::Guide { .. }), "{error}");
    }
}

#[test]
fn proposals_follow_the_guide_too() {
    use flametune_infer::{EngineOptions, Speculation};

    let guide = factory().regex("(ab){10}").unwrap();
    let lookup = Speculation::PromptLookup {
        ngram: 2,
        tokens: 4,
    };
    let options = EngineOptions {
        speculation: Some(lookup),
        ..options()
    };
    let engine = Engine::start(load("llama"), options).unwrap();
    let params = SamplingParams {
        max_tokens: 40,
        stop_token_ids: vec![EOS],
        ..SamplingParams::default()
    };
    let mut request = GenerateRequest::new(vec![100, 101], params);
    request.guide = Some(guide);
    let answer = collect(&mut engine.submit(request).unwrap(), 1).unwrap();
    let ab = |at: usize| u32::from(b"ab"[at % 2]) + 3;
    let expected: Vec<u32> = (0..20).map(ab).collect();
    assert_eq!(answer.outputs[0].tokens, expected);
    let usage = answer.usage[0];
    assert!(usage.accepted_tokens > 8, "{usage:?}");
}

#[test]
fn a_vocabulary_must_have_an_end() {
    let tokens = [TokenText::Bytes(b"a".to_vec())];
    assert!(GuideFactory::new(&tokens, &[]).is_err());
    assert!(GuideFactory::new(&tokens, &[1]).is_err());
}
