//! Chat templates compared with transformers, row by row.

use flametune_data::{ChatInput, ChatTemplate, Error};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::fixtures::{chat_tokenizer, conversations, json};

#[derive(Deserialize)]
pub(crate) struct Golden {
    /// Text and ids, an id as the character U+0100 + id.
    pub(crate) texts: Vec<(String, String)>,
    pub(crate) rows: Vec<Row>,
}

#[derive(Deserialize)]
pub(crate) struct Row {
    pub(crate) conversation: String,
    #[serde(default)]
    pub(crate) add_generation_prompt: bool,
    #[serde(default)]
    pub(crate) tools: bool,
    #[serde(default)]
    pub(crate) continue_final_message: bool,
    pub(crate) text: Option<usize>,
    pub(crate) error: Option<String>,
    pub(crate) mask: Option<Vec<(usize, usize)>>,
}

impl Row {
    pub(crate) fn mask(&self, tokens: usize) -> Vec<bool> {
        let runs = self.mask.as_deref().unwrap();
        (0..tokens)
            .map(|index| {
                runs.iter()
                    .any(|&(start, length)| (start..start + length).contains(&index))
            })
            .collect()
    }
}

pub(crate) fn golden(template: &str) -> Golden {
    json(&format!("chat/golden/{template}.json"))
}

fn ids(encoded: &str) -> Vec<u32> {
    encoded.chars().map(|c| u32::from(c) - 0x100).collect()
}

#[test]
fn every_golden_row_renders_encodes_and_masks_like_the_reference() {
    let templates: Map<String, Value> = json("chat/templates.json");
    let tools: Vec<Value> = json("chat/tools.json");
    let tokenizer = chat_tokenizer();
    let conversations: std::collections::HashMap<_, _> = conversations().into_iter().collect();
    let mut checked = 0;
    for (name, source) in &templates {
        let template = ChatTemplate::new(name, source.as_str().unwrap()).unwrap();
        let golden = golden(name);
        for row in &golden.rows {
            let context = format!(
                "{name}, {}, prompt {}",
                row.conversation, row.add_generation_prompt
            );
            let mut input = ChatInput::new(&conversations[&row.conversation])
                .generation_prompt(row.add_generation_prompt)
                .special_tokens(tokenizer.special())
                .variable("date_string", "26 Jul 2024");
            input.continue_final_message = row.continue_final_message;
            if row.tools {
                input = input.tools(&tools);
            }
            checked += 1;
            if let Some(expected) = &row.error {
                match template.render(&input) {
                    Err(Error::TemplateRaised { message, .. }) => {
                        assert_eq!(message, *expected, "{context}")
                    }
                    other => panic!("{context}: expected {expected:?}, got {other:?}"),
                }
                continue;
            }
            let (text, encoded) = &golden.texts[row.text.unwrap()];
            assert_eq!(template.render(&input).unwrap(), *text, "{context}");
            assert_eq!(
                tokenizer.encode(text, false).unwrap(),
                ids(encoded),
                "{context}"
            );
            if row.mask.is_some() {
                let chat = template.render_with_spans(&input).unwrap();
                assert_eq!(chat.text, *text, "{context}");
                let chat = chat.encode(&tokenizer).unwrap();
                assert_eq!(chat.ids, ids(encoded), "{context}");
                assert_eq!(chat.assistant_mask, row.mask(chat.ids.len()), "{context}");
            }
        }
    }
    assert_eq!(checked, 558);
}

/// Tracing finds, without tags, what the tags of the same template mark.
#[test]
fn tracing_agrees_with_generation_tags() {
    let templates: Map<String, Value> = json("chat/templates.json");
    let tokenizer = chat_tokenizer();
    for (plain, tagged) in [
        ("chatml_nogen", "chatml"),
        ("llama3@trl", "llama3_training@trl"),
    ] {
        let plain = ChatTemplate::new(plain, templates[plain].as_str().unwrap()).unwrap();
        let tagged = ChatTemplate::new(tagged, templates[tagged].as_str().unwrap()).unwrap();
        for (name, messages) in conversations() {
            let input = ChatInput::new(&messages).special_tokens(tokenizer.special());
            let traced = plain.render_with_spans(&input).unwrap();
            let marked = tagged.render_with_spans(&input).unwrap();
            assert_eq!(
                (traced.text, traced.assistant_spans),
                (marked.text, marked.assistant_spans),
                "{name}"
            );
        }
    }
}

/// What tracing finds in the templates without tags, to be read by a person.
#[test]
fn traced_spans_of_published_templates() {
    let templates: Map<String, Value> = json("chat/templates.json");
    let tokenizer = chat_tokenizer();
    let (_, messages) = conversations()
        .into_iter()
        .find(|(name, _)| name == "random2")
        .unwrap();
    let mut report = String::new();
    for (name, source) in &templates {
        if name == "jinja_features" {
            continue;
        }
        let template = ChatTemplate::new(name, source.as_str().unwrap()).unwrap();
        let input = ChatInput::new(&messages).special_tokens(tokenizer.special());
        let chat = template.render_with_spans(&input).unwrap();
        report.push_str(&format!("{name}\n"));
        for span in chat.assistant_spans {
            report.push_str(&format!("  {:?}\n", &chat.text[span]));
        }
    }
    insta::assert_snapshot!(report);
}

#[test]
fn a_training_conversation_needs_both_sides() {
    let tokenizer = chat_tokenizer();
    let template = ChatTemplate::builtin("chatml").unwrap();
    let conversations: std::collections::HashMap<_, _> = conversations().into_iter().collect();
    let encode = |name: &str| template.encode(&ChatInput::new(&conversations[name]), &tokenizer);
    assert!(encode("multi_turn").is_ok());
    let error = encode("user").unwrap_err();
    assert_eq!(
        error.to_string(),
        "chat template \"chatml\": none of the 13 tokens was written by the assistant"
    );
    let all = ChatTemplate::new(
        "all",
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    );
    let error = all
        .unwrap()
        .encode(&ChatInput::new(&conversations["user"]), &tokenizer)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "chat template \"all\": all 6 tokens count as written by the assistant"
    );
}
