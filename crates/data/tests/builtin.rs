//! The built-in chat templates: as text, and against the published ones of the same family.

use flametune_data::{BUILTIN_TEMPLATES, ChatInput, ChatTemplate, Error, Message};
use serde_json::{Map, Value};

use crate::fixtures::{chat_tokenizer, conversations, json};

fn input<'a>(messages: &'a [Message]) -> ChatInput<'a> {
    ChatInput::new(messages)
        .variable("bos_token", "<s>")
        .variable("eos_token", "</s>")
}

/// The text with the assistant's part between ⟦ and ⟧.
fn marked(template: &ChatTemplate, input: &ChatInput<'_>) -> String {
    let chat = template.render_with_spans(input).unwrap();
    let mut text = chat.text;
    for span in chat.assistant_spans.iter().rev() {
        text.insert(span.end, '⟧');
        text.insert(span.start, '⟦');
    }
    text
}

#[test]
fn builtin_templates_read_like_this() {
    let messages = [
        Message::system("You are terse."),
        Message::user("2 + 2?"),
        Message::assistant("4"),
        Message::user("And 3 + 3?"),
        Message::assistant("6"),
    ];
    for name in BUILTIN_TEMPLATES {
        let template = ChatTemplate::builtin(name).unwrap();
        let whole = marked(&template, &input(&messages));
        let prompt = template
            .render(&input(&messages[1..2]).generation_prompt(true))
            .unwrap();
        insta::assert_snapshot!(
            *name,
            format!("{whole}\n=== prompt ===\n{prompt}\n=== end ===")
        );
    }
}

#[test]
fn alpaca_has_a_second_form_for_an_input() {
    let messages = [
        Message::user("Translate to French.").with("input", "Good day"),
        Message::assistant("Bonjour"),
    ];
    let template = ChatTemplate::builtin("alpaca").unwrap();
    insta::assert_snapshot!("alpaca_input", marked(&template, &input(&messages)));
    let empty = [
        Message::user("Say hi.").with("input", ""),
        Message::assistant("hi"),
    ];
    assert!(
        !template
            .render(&input(&empty))
            .unwrap()
            .contains("### Input:")
    );
}

/// The built-in template and the published one of its family give the same text wherever both accept a conversation.
#[test]
fn builtin_templates_equal_the_published_ones() {
    let published: Map<String, Value> = json("chat/templates.json");
    let tokenizer = chat_tokenizer();
    let pairs = [
        ("chatml", "chatml", 26),
        ("zephyr", "zephyr", 26),
        ("llama-2", "llama2", 22),
        ("llama-3", "llama3@trl", 26),
        ("mistral", "mistral", 12),
        ("gemma", "gemma3@trl", 22),
    ];
    for (name, family, expected) in pairs {
        let ours = ChatTemplate::builtin(name).unwrap();
        let theirs = ChatTemplate::new(family, published[family].as_str().unwrap()).unwrap();
        let mut equal = 0;
        for (conversation, messages) in conversations() {
            for prompt in [false, true] {
                let input = ChatInput::new(&messages)
                    .special_tokens(tokenizer.special())
                    .generation_prompt(prompt);
                match (ours.render(&input), theirs.render(&input)) {
                    (Ok(ours), Ok(theirs)) => {
                        assert_eq!(ours, theirs, "{name}, {conversation}, prompt {prompt}");
                        equal += 1;
                    }
                    // Published Mistral knows no system message; ours puts it into the first user turn.
                    (Ok(_), Err(_)) => {
                        assert_eq!((name, messages[0].role.as_str()), ("mistral", "system"))
                    }
                    (Err(ours), theirs) => {
                        assert!(
                            matches!(ours, Error::TemplateRaised { .. }),
                            "{name}, {conversation}: {ours}"
                        );
                        assert!(theirs.is_err(), "{name}, {conversation}");
                    }
                }
            }
        }
        assert_eq!(equal, expected, "{name}");
    }
}

#[test]
fn builtin_templates_never_make_a_double_bos() {
    let tokenizer = chat_tokenizer();
    for name in BUILTIN_TEMPLATES {
        let template = ChatTemplate::builtin(name).unwrap();
        let messages = [Message::user("a"), Message::assistant("b")];
        let chat = template
            .encode(
                &ChatInput::new(&messages).special_tokens(tokenizer.special()),
                &tokenizer,
            )
            .unwrap();
        assert!(!tokenizer.has_double_bos(&chat.ids), "{name}");
        let bos = tokenizer.special().bos.as_ref().unwrap().id;
        let starts = chat.ids.iter().filter(|&&id| id == bos).count();
        assert_eq!(
            starts,
            usize::from(!matches!(*name, "chatml" | "alpaca" | "zephyr")),
            "{name}"
        );
    }
}

#[test]
fn content_parts_are_text_or_refused() {
    let parts = |json: &str| serde_json::from_str::<Message>(json).unwrap();
    let text = [parts(
        r#"{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}"#,
    )];
    let image = [parts(
        r#"{"role":"user","content":[{"type":"image","url":"x"}]}"#,
    )];
    for name in BUILTIN_TEMPLATES {
        let template = ChatTemplate::builtin(name).unwrap();
        assert!(
            template.render(&input(&text)).unwrap().contains("ab"),
            "{name}"
        );
        let error = template.render(&input(&image)).unwrap_err();
        assert!(
            matches!(&error, Error::TemplateRaised { message, .. } if message.ends_with("part of type image")),
            "{name}: {error}"
        );
    }
}
