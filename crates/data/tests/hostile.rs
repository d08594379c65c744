//! Templates and files that mean harm, or were cut off.

use flametune_data::{ChatInput, ChatTemplate, CivilTime, Error, Message, Tokenizer};
use proptest::prelude::*;
use serde_json::Value;

use crate::fixtures::{TOKENIZERS, json, path};

fn render(source: &str) -> Result<String, Error> {
    let messages = [Message::user("hi")];
    ChatTemplate::new("evil.jinja", source)?.render(&ChatInput::new(&messages))
}

fn message(source: &str) -> String {
    render(source).unwrap_err().to_string()
}

#[test]
fn broken_templates_name_template_and_line() {
    assert_eq!(
        message("a\n{% if %}"),
        "chat template \"evil.jinja\", line 2: syntax error: unexpected end of block"
    );
    let errors = [
        "{% for m in messages %}",
        "{{",
        "{% generation %}",
        "{% endgeneration %}",
        "{% nosuchtag %}",
        "{{ x",
    ];
    for source in errors {
        let error = render(source).unwrap_err();
        assert!(
            matches!(&error, Error::TemplateSyntax { line: 1, .. }),
            "{source}: {error}"
        );
    }
    for source in [
        "\n{{ messages[3].content.x }}",
        "\n{{ x | nosuchfilter }}",
        "\n{{ nosuchfunction() }}",
        "\n{{ messages.pop() }}",
    ] {
        let error = render(source).unwrap_err();
        assert!(
            matches!(&error, Error::TemplateRender { line: 2, .. }),
            "{source}: {error}"
        );
    }
}

#[test]
fn raised_errors_carry_message_and_line() {
    assert_eq!(
        message("\n\n{{ raise_exception('no ' ~ messages[0].role) }}"),
        "chat template \"evil.jinja\", line 3: no user"
    );
    let nested = "{% macro m() %}{{ raise_exception('inside') }}{% endmacro %}{% set x %}{{ m() }}{% endset %}";
    assert!(
        matches!(render(nested), Err(Error::TemplateRaised { message, .. }) if message == "inside")
    );
}

#[test]
fn endless_work_runs_out_of_fuel() {
    for source in [
        "{% for a in range(100000) %}{% for b in range(100000) %}{% for c in range(100000) %}{% endfor %}{% endfor %}{% endfor %}",
        "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
        "{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(1000) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% for j in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}{% endfor %}{{ ns.x }}",
        "{{ 'a' * 100000000000 }}",
        "{{ 'aaaaaaaaaaaaaaaaaaaa' | indent(1000000000) }}",
    ] {
        let error = render(source).unwrap_err();
        assert!(
            matches!(
                error,
                Error::TemplateFuel { .. } | Error::TemplateRender { .. }
            ),
            "{source}: {error}"
        );
    }
    let messages = [Message::user("hi")];
    let small = ChatTemplate::new("small", "{% for i in range(500) %}x{% endfor %}")
        .unwrap()
        .with_fuel(100);
    let error = small.render(&ChatInput::new(&messages)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "chat template \"small\", line 1: gave up after 100 steps"
    );
}

#[test]
fn deep_nesting_is_refused_or_survived() {
    let deep = 50_000;
    for source in [
        format!("{{{{ {}x{} }}}}", "(".repeat(deep), ")".repeat(deep)),
        format!("{{{{ {}x{} }}}}", "[".repeat(deep), "]".repeat(deep)),
        "{% if x %}".repeat(deep) + &"{% endif %}".repeat(deep),
        "{% generation %}".repeat(deep) + &"{% endgeneration %}".repeat(deep),
        format!("{{{{ {} x }}}}", "not ".repeat(deep)),
        format!("{{{{ {} 1 }}}}", "-".repeat(deep)),
        format!("{{{{ x{} }}}}", "|trim".repeat(deep)),
        format!("{{{{ x{} }}}}", ".a".repeat(deep)),
        format!("{{{{ 1{} }}}}", " + 1".repeat(deep)),
        format!("{{{{ 1{} }}}}", " ~ 1".repeat(deep)),
        format!("{{{{ 1{} }}}}", " ** 1".repeat(deep)),
        format!("{{{{ 1{} }}}}", " if 1 else 1".repeat(deep)),
        format!("{{{{ 1{} }}}}", " and 1".repeat(deep)),
        format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(deep)),
    ] {
        // Anything but a crash.
        let _ = render(&source);
    }
    let chain = render(&format!("a\n{{{{ x{} }}}}", "|trim".repeat(501))).unwrap_err();
    assert!(
        matches!(&chain, Error::TemplateSyntax { line: 2, .. }),
        "{chain}"
    );
    assert!(matches!(
        render(&"x".repeat((1 << 20) + 1)),
        Err(Error::TemplateTooLarge {
            limit: 1_048_576,
            ..
        })
    ));
}

/// A template can nest a value at almost every step; freeing, printing and comparing it recurses as deep.
#[test]
fn deeply_nested_values_do_not_overflow_the_stack() {
    let list = format!("{}ns.x{}", "[".repeat(100), "]".repeat(100));
    let map = format!("{}ns.x{}", "{'a': ".repeat(100), "}".repeat(100));
    for value in [list, map] {
        for rounds in [100, 300, 9999] {
            for use_of_it in [
                "",
                "{{ ns.x }}",
                "{{ ns.x == ns.x }}",
                "{{ ns.x | string | length }}",
                "{{ ns.x | tojson }}",
            ] {
                let source = format!(
                    "{{% set ns = namespace(x=[]) %}}{{% for i in range({rounds}) %}}{{% set ns.x = {value} %}}\
                     {{% endfor %}}{use_of_it}"
                );
                // Anything but a crash.
                let _ = render(&source);
            }
        }
    }
}

#[test]
fn templates_see_no_clock_unless_one_is_given() {
    assert_eq!(render("{{ strftime_now is defined }}").unwrap(), "False");
    assert!(matches!(
        render("{{ strftime_now('%Y') }}"),
        Err(Error::TemplateRender { .. })
    ));
    let messages = [Message::user("hi")];
    let template = ChatTemplate::new("t", "{{ strftime_now('%d %b %Y') }}").unwrap();
    let mut input = ChatInput::new(&messages);
    input.now = Some(CivilTime::from_unix(1_721_995_200));
    assert_eq!(template.render(&input).unwrap(), "26 Jul 2024");
    let template = ChatTemplate::new("t", "{{ strftime_now('%Q') }}").unwrap();
    assert!(
        template
            .render(&input)
            .unwrap_err()
            .to_string()
            .ends_with("strftime does not know %Q")
    );
}

#[test]
fn line_ends_and_python_details_render_like_jinja2() {
    assert_eq!(
        render("{% if true %}\r\n  a\r\n{% endif %}\rb").unwrap(),
        "  a\nb"
    );
    assert_eq!(
        render("{{ none }} {{ true }} {{ 1.0 }} {{ [1, 'a', none] }}").unwrap(),
        "None True 1.0 [1, 'a', None]"
    );
    assert_eq!(
        render("{{ ' x '.strip() ~ 'abc'.removeprefix('a').removesuffix('c') }}").unwrap(),
        "xb"
    );
    assert_eq!(
        render("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}")
            .unwrap(),
        "01"
    );
    assert_eq!(
        render("{{ tools is none }} {{ documents is none }} {{ add_generation_prompt }}").unwrap(),
        "True True False"
    );
    assert_eq!(
        render("{{ '<a>' }}{{ {'a': '<b>'} | tojson }}").unwrap(),
        r#"<a>{"a": "<b>"}"#
    );
}

#[test]
fn reasoning_is_seen_under_every_name() {
    let template = ChatTemplate::new(
        "t",
        "{{ messages[0].reasoning_content }}|{{ messages[0].thinking }}",
    )
    .unwrap();
    for key in ["reasoning_content", "thinking", "reasoning"] {
        let messages = [Message::assistant("x").with(key, "why")];
        assert_eq!(
            template.render(&ChatInput::new(&messages)).unwrap(),
            "why|why",
            "{key}"
        );
    }
}

#[test]
fn the_final_message_continues_or_the_reason_is_told() {
    let continued = |source: &str, messages: &[Message]| {
        let mut input = ChatInput::new(messages);
        input.continue_final_message = true;
        ChatTemplate::new("t", source).unwrap().render(&input)
    };
    let all = "{% for m in messages %}[{{ m.content }}]{% endfor %}";
    let trimmed = "{% for m in messages %}[{{ m.content | trim }}]{% endfor %}";
    let messages = [Message::user("a"), Message::assistant("b ")];
    assert_eq!(continued(all, &messages).unwrap(), "[a][b ");
    assert_eq!(continued(trimmed, &messages).unwrap(), "[a][b");
    let error =
        |source: &str, messages: &[Message]| continued(source, messages).unwrap_err().to_string();
    let prefix = "chat template \"t\": cannot continue the final message: ";
    assert_eq!(
        error("x", &messages),
        format!("{prefix}the template leaves out its text")
    );
    assert_eq!(
        error(all, &[]),
        format!("{prefix}the conversation is empty")
    );
    let call = serde_json::from_str(r#"{"role": "assistant", "content": null, "tool_calls": []}"#)
        .unwrap();
    assert_eq!(error(all, &[call]), format!("{prefix}it has no text"));
    let mut input = ChatInput::new(&messages).generation_prompt(true);
    input.continue_final_message = true;
    let error = ChatTemplate::new("t", all)
        .unwrap()
        .render(&input)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "continue_final_message and add_generation_prompt cannot be combined"
    );
}

#[test]
fn a_megabyte_of_text_needs_little_fuel() {
    let messages: Vec<Message> = (0..1000)
        .map(|_| Message::user("word ".repeat(200)))
        .collect();
    let template = ChatTemplate::builtin("chatml").unwrap();
    assert!(template.render(&ChatInput::new(&messages)).unwrap().len() > 1_000_000);
}

#[test]
fn truncated_tokenizer_files_are_errors() {
    for name in TOKENIZERS {
        let bytes = std::fs::read(path(&format!("tokenizers/{name}.json"))).unwrap();
        let trimmed = bytes.trim_ascii_end().len();
        for cut in (0..trimmed).step_by(97) {
            let error = Tokenizer::from_json("cut.json", &bytes[..cut]).unwrap_err();
            assert!(
                matches!(&error, Error::InvalidJson { file, .. } if file == "cut.json"),
                "{name} {cut}: {error}"
            );
        }
    }
}

#[test]
fn merges_that_yield_no_token_are_named() {
    let check = |model: &str, expected: &str| {
        let json = format!(r#"{{"added_tokens": [], "model": {model}}}"#);
        assert_eq!(
            Tokenizer::from_json("t.json", json.as_bytes())
                .unwrap_err()
                .to_string(),
            expected
        );
    };
    check(
        r#"{"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [["a", "b"]]}"#,
        "merge 0 (\"a b\") is invalid: its result is not in the vocabulary",
    );
    check(
        r#"{"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]}"#,
        "merge 0 (\"a b\") is invalid: its result is not in the vocabulary",
    );
    check(
        r###"{"type": "BPE", "continuing_subword_prefix": "##", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]}"###,
        "merge 0 (\"a b\") is invalid: its right half lacks the continuing_subword_prefix",
    );
    let template = r#"{"model": {"type": "WordLevel", "unk_token": "?", "vocab": {"?": 0}}, "added_tokens": [],
        "post_processor": {"type": "TemplateProcessing", "pair": [], "special_tokens": {},
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}]}}"#;
    assert_eq!(
        Tokenizer::from_json("t.json", template.as_bytes())
            .unwrap_err()
            .to_string(),
        "t.json: post_processor.single must be made of tokens from special_tokens, got \"<s>\""
    );
    check(r#"{"type": "BPE"}"#, "t.json:1:46: Missing vocab/merges");
}

/// Replaces the value at the `index`-th place of a JSON tree.
fn replace(value: &mut Value, index: &mut usize, with: &Value) {
    if *index == 0 {
        *value = with.clone();
    }
    *index = index.wrapping_sub(1);
    match value {
        Value::Array(items) => items
            .iter_mut()
            .take(6)
            .for_each(|item| replace(item, index, with)),
        Value::Object(fields) => fields
            .values_mut()
            .take(12)
            .for_each(|item| replace(item, index, with)),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn tokenizer_files_with_a_wrong_value_never_panic(
        which in 0_usize..6,
        index in 0_usize..90,
        with in prop::sample::select(vec![
            "null", "true", "-1", "0", "1e300", "4294967296", "\"\"", "\"x\"", "[]", "{}", "[[]]", "[\"a\", \"b\"]",
            "\"(\"", "{\"Regex\": \"(\"}", "{\"Regex\": \"(a*)*b\"}", "{\"\": 0}",
        ]),
    ) {
        let mut file: Value = json(&format!("tokenizers/{}.json", TOKENIZERS[which]));
        replace(&mut file, &mut index.clone(), &serde_json::from_str(with).unwrap());
        if let Ok(tokenizer) = Tokenizer::from_json("t.json", file.to_string().as_bytes()) {
            if let Ok(ids) = tokenizer.encode("Hello 日本 wörld <s> 12", true) {
                let _ = tokenizer.decode(&ids, true);
            }
            let _ = tokenizer.encode_with_offsets("a", false);
            let _ = tokenizer.bos_eos();
            let _ = tokenizer.check_against(3);
        }
    }

    #[test]
    fn templates_of_random_pieces_never_panic(
        pieces in prop::collection::vec(
            prop::sample::select(vec![
                "{%", "%}", "{{", "}}", "{#", "#}", " ", "-", "generation", "endgeneration", "for m in messages",
                "endfor", "if m", "endif", "messages", "m.content", "|", "trim", "tojson", "'", "(", ")", "[", "]",
                ":", "0", ",", "set x =", "raise_exception", "macro f()", "endmacro", "é", "\r\n",
            ]),
            0..24,
        )
    ) {
        let source = pieces.concat();
        let messages = [Message::user("hi"), Message::assistant("yo")];
        if let Ok(template) = ChatTemplate::new("random", source) {
            let _ = template.with_fuel(10_000).render_with_spans(&ChatInput::new(&messages));
        }
    }
}
