//! Over-long examples, BOS twice, EOS missing.

use flametune_data::{
    BUILTIN_TEMPLATES, BosEos, ChatTemplate, EncodeOptions, Encoder, Error, Example, Message, Note,
    Outcome, Strictness, TrainOn, Truncation,
};
use proptest::prelude::*;

use crate::encode::{cause, chat, chatml, encoder, sequence, trained_text};
use crate::fixtures::chat_tokenizer;

fn long() -> Example {
    chat(&[
        Message::user("count to four"),
        Message::assistant("one two three four"),
    ])
}

fn limited(max_length: usize, truncation: Truncation) -> EncodeOptions {
    EncodeOptions {
        max_length: Some(max_length),
        truncation,
        ..EncodeOptions::default()
    }
}

#[test]
fn over_long_examples_are_refused_dropped_or_cut() {
    let whole = sequence(
        chatml(EncodeOptions::default())
            .encode("r", &long())
            .unwrap(),
    )
    .0;
    let (tokens, limit) = (whole.len(), whole.len() - 4);
    let refused = chatml(limited(limit, Truncation::Error)).encode("a.jsonl:3", &long());
    assert_eq!(
        refused.unwrap_err().to_string(),
        format!("a.jsonl:3: {tokens} tokens are more than max_length {limit}")
    );
    let dropped = chatml(limited(limit, Truncation::Drop))
        .encode("r", &long())
        .unwrap();
    assert_eq!(dropped, Outcome::Dropped { tokens, limit });
    let note = Note::Truncated {
        tokens,
        kept: limit,
    };
    for (truncation, part) in [(Truncation::Right, 0..limit), (Truncation::Left, 4..tokens)] {
        let (cut, notes) = sequence(
            chatml(limited(limit, truncation))
                .encode("r", &long())
                .unwrap(),
        );
        assert_eq!(cut.input_ids, whole.input_ids[part.clone()]);
        assert_eq!(cut.labels, whole.labels[part]);
        assert_eq!(notes.as_slice(), std::slice::from_ref(&note));
    }
    for truncation in [Truncation::Error, Truncation::Drop, Truncation::Right] {
        let fits = chatml(limited(tokens, truncation))
            .encode("r", &long())
            .unwrap();
        assert_eq!(sequence(fits), (whole.clone(), Vec::new()));
    }
    let cut_away = chatml(limited(6, Truncation::Right)).encode("r", &long());
    assert_eq!(
        cause(cut_away, "r").to_string(),
        format!(
            "none of the 6 tokens is trained: the cut to 6 of {tokens} tokens took the trained ones"
        )
    );
}

#[test]
fn cutting_the_beginning_keeps_bos() {
    let template = ChatTemplate::builtin("llama-3").unwrap();
    let whole = sequence(
        encoder(&template, EncodeOptions::default())
            .encode("r", &long())
            .unwrap(),
    )
    .0;
    let options = limited(10, Truncation::Left);
    let (cut, _) = sequence(encoder(&template, options).encode("r", &long()).unwrap());
    assert_eq!(cut.input_ids[0], whole.input_ids[0]);
    assert_eq!(cut.input_ids[1..], whole.input_ids[whole.len() - 9..]);
    assert_eq!(cut.labels[1..], whole.labels[whole.len() - 9..]);
}

#[test]
fn limits_without_room_are_refused() {
    let check = |options: EncodeOptions, expected: &str| {
        let error = Encoder::new(chat_tokenizer(), None, options).unwrap_err();
        assert_eq!(error.to_string(), expected);
    };
    check(
        limited(1, Truncation::Right),
        "max_length must be at least 2, got 1",
    );
    for prompt in [0, 8] {
        let options = EncodeOptions {
            max_prompt_length: Some(prompt),
            ..limited(8, Truncation::Right)
        };
        check(
            options,
            &format!("max_prompt_length must be at least 1 and below max_length, got {prompt}"),
        );
    }
}

#[test]
fn a_second_bos_is_found() {
    let twice = "{{ bos_token }}{{ bos_token }}{% for m in messages %}{% generation %}{{ m.content }}<|im_end|>\
                 {% endgeneration %}{% endfor %}";
    let twice = ChatTemplate::new("twice.jinja", twice).unwrap();
    let bos_eos = BosEos {
        bos: true,
        eos: false,
    };
    let adding = chat_tokenizer().with_bos_eos(bos_eos).unwrap();
    let text = Example::Text("<|endoftext|>Hello".to_owned());
    for (strictness, notes) in [
        (Strictness::Ignore, vec![]),
        (Strictness::Warn, vec![Note::DoubleBos]),
    ] {
        let options = EncodeOptions {
            double_bos: strictness,
            ..EncodeOptions::default()
        };
        let encoded = encoder(&twice, options.clone())
            .encode("r", &long())
            .unwrap();
        assert_eq!(sequence(encoded).1, notes);
        let plain = Encoder::new(adding.clone(), None, options).unwrap();
        assert_eq!(sequence(plain.encode("r", &text).unwrap()).1, notes);
    }
    let refused = encoder(&twice, EncodeOptions::default()).encode("r", &long());
    assert_eq!(
        cause(refused, "r").to_string(),
        "the ids begin with \"<|endoftext|>\" twice"
    );
    let plain = Encoder::new(adding, None, EncodeOptions::default()).unwrap();
    assert!(matches!(
        cause(plain.encode("r", &text), "r"),
        Error::DoubleBos { .. }
    ));
}

#[test]
fn an_answer_that_does_not_end_is_found() {
    let endless = "{% for m in messages %}<|im_start|>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}\
                   {% endgeneration %}{% else %}{{ m.content }}{% endif %}<|im_end|>{% endfor %}";
    let endless = ChatTemplate::new("endless.jinja", endless).unwrap();
    let (example, notes) = sequence(
        encoder(&endless, EncodeOptions::default())
            .encode("r", &long())
            .unwrap(),
    );
    assert_eq!(
        trained_text(&chat_tokenizer(), &example),
        ["one two three four"]
    );
    assert!(matches!(&notes[..], [Note::MissingEos { .. }]), "{notes:?}");
    let strict = EncodeOptions {
        missing_eos: Strictness::Refuse,
        ..EncodeOptions::default()
    };
    let refused = encoder(&endless, strict.clone()).encode("r", &long());
    let message = cause(refused, "r").to_string();
    assert!(
        message.starts_with("what is trained ends with \"")
            && message.ends_with("\", not with a token that ends a generation (<|im_end|>)"),
        "{message}"
    );
    // White space behind the end is no matter.
    let spaced = "{% for m in messages %}<|im_start|>{% generation %}{{ m.content }}<|im_end|>\n\n \
                  {% endgeneration %}{% endfor %}";
    let spaced = ChatTemplate::new("spaced.jinja", spaced).unwrap();
    let (_, notes) = sequence(encoder(&spaced, strict).encode("r", &long()).unwrap());
    assert!(notes.is_empty());
}

proptest! {
    /// Whatever the conversation, the template and the options: an error or ids within the limit, something trained.
    #[test]
    fn no_example_exceeds_the_limit(
        turns in proptest::collection::vec(
            (
                proptest::option::weighted(0.1, "system|user|assistant|tool"),
                "\\PC{0,16}",
                proptest::option::weighted(0.2, any::<bool>()),
            ),
            0..5,
        ),
        template in 0..BUILTIN_TEMPLATES.len(),
        limit in 2_usize..80,
        right in any::<bool>(),
        policy in prop_oneof![Just(TrainOn::Assistant), Just(TrainOn::LastTurn), Just(TrainOn::All)],
    ) {
        let truncation = if right { Truncation::Right } else { Truncation::Left };
        let options = EncodeOptions { train_on: policy, ..limited(limit, truncation) };
        let encoder = encoder(&ChatTemplate::builtin(BUILTIN_TEMPLATES[template]).unwrap(), options);
        let messages: Vec<Message> = turns
            .into_iter()
            .zip(["user", "assistant"].into_iter().cycle())
            .map(|((role, content, train), regular)| {
                // Mostly turns that templates accept.
                let role = role.unwrap_or_else(|| regular.to_owned());
                match train {
                    Some(train) if role == "assistant" => Message::new(role, content).with("train", train),
                    _ => Message::new(role, content),
                }
            })
            .collect();
        let (prompt, answer) = messages.split_at(messages.len() / 2);
        let judged = Example::Judged { prompt: prompt.to_vec(), completion: answer.to_vec(), label: true };
        let rejected = vec![Message::assistant("no")];
        let compared =
            Example::Preference { prompt: prompt.to_vec(), chosen: answer.to_vec(), rejected, margin: None };
        for example in [chat(&messages), judged, compared] {
            let Ok(outcome) = encoder.encode("r", &example) else { continue };
            let record = outcome.record().unwrap();
            for labelled in record.labelled() {
                prop_assert!((2..=limit).contains(&labelled.len()));
                prop_assert_eq!(labelled.len(), labelled.labels.len());
                prop_assert!(labelled.num_supervised_tokens() > 0);
            }
        }
    }
}
