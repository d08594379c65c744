//! Which tokens of an example are trained.

use flametune_data::{
    BUILTIN_TEMPLATES, ChatTemplate, EncodeOptions, EncodedExample, EncodedRecord, Encoder, Error,
    Example, IGNORE_INDEX, Message, Note, Outcome, Strictness, Tokenizer, TrainOn,
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::fixtures::{self, chat_tokenizer, conversations};

pub(crate) fn encoder(template: &ChatTemplate, options: EncodeOptions) -> Encoder {
    Encoder::new(chat_tokenizer(), Some(template.clone()), options).unwrap()
}

pub(crate) fn chatml(options: EncodeOptions) -> Encoder {
    encoder(&ChatTemplate::builtin("chatml").unwrap(), options)
}

pub(crate) fn train_on(train_on: TrainOn) -> EncodeOptions {
    EncodeOptions {
        train_on,
        ..EncodeOptions::default()
    }
}

pub(crate) fn chat(messages: &[Message]) -> Example {
    Example::Chat {
        messages: messages.to_vec(),
        tools: None,
    }
}

pub(crate) fn sequence(outcome: Outcome) -> (EncodedExample, Vec<Note>) {
    match outcome {
        Outcome::Encoded {
            record: EncodedRecord::Sequence(example),
            notes,
        } => (example, notes),
        other => panic!("{other:?}"),
    }
}

/// The text of each run of trained tokens.
pub(crate) fn trained_text(tokenizer: &Tokenizer, example: &EncodedExample) -> Vec<String> {
    let mut runs: Vec<Vec<u32>> = Vec::new();
    let mut inside = false;
    for (&id, &label) in example.input_ids.iter().zip(&example.labels) {
        if label == IGNORE_INDEX {
            inside = false;
            continue;
        }
        assert_eq!(label, i64::from(id));
        if !inside {
            runs.push(Vec::new());
        }
        inside = true;
        runs.last_mut().unwrap().push(id);
    }
    runs.iter()
        .map(|run| tokenizer.decode(run, false).unwrap())
        .collect()
}

/// The cause inside of [`Error::Record`], whose place must be the given one.
pub(crate) fn cause(result: Result<Outcome, Error>, place: &str) -> Error {
    match result.unwrap_err() {
        Error::Record { record, source } => {
            assert_eq!(record, place);
            *source
        }
        other => panic!("{other}"),
    }
}

fn dialogue() -> [Message; 5] {
    [
        Message::system("You are terse."),
        Message::user("2 + 2?"),
        Message::assistant("4"),
        Message::user("And 3 + 3?"),
        Message::assistant("6"),
    ]
}

#[test]
fn the_policies_train_what_they_say() {
    let tokenizer = chat_tokenizer();
    let check = |messages: &[Message], policy, expected: &[&str]| {
        let encoded = chatml(train_on(policy))
            .encode("r", &chat(messages))
            .unwrap();
        let (example, notes) = sequence(encoded);
        assert_eq!(trained_text(&tokenizer, &example), expected, "{policy:?}");
        assert!(notes.is_empty(), "{notes:?}");
    };
    let plain = dialogue();
    check(&plain, TrainOn::Assistant, &["4<|im_end|>", "6<|im_end|>"]);
    check(&plain, TrainOn::LastTurn, &["6<|im_end|>"]);
    check(
        &plain,
        TrainOn::All,
        &[
            "<|im_start|>system\nYou are terse.<|im_end|>\n<|im_start|>user\n2 + 2?<|im_end|>\n\
             <|im_start|>assistant\n4<|im_end|>\n<|im_start|>user\nAnd 3 + 3?<|im_end|>\n\
             <|im_start|>assistant\n6<|im_end|>\n",
        ],
    );
    let mut flagged = dialogue();
    flagged[4] = Message::assistant("6").with("train", false);
    check(&flagged, TrainOn::Assistant, &["4<|im_end|>"]);
    let mut weighted = dialogue();
    weighted[2] = Message::assistant("4").with("weight", 0);
    weighted[4] = Message::assistant("6").with("weight", 1.0);
    check(&weighted, TrainOn::Assistant, &["6<|im_end|>"]);
    check(
        &weighted,
        TrainOn::All,
        &[
            "<|im_start|>system\nYou are terse.<|im_end|>\n<|im_start|>user\n2 + 2?<|im_end|>\n\
             <|im_start|>assistant\n",
            "\n<|im_start|>user\nAnd 3 + 3?<|im_end|>\n<|im_start|>assistant\n6<|im_end|>\n",
        ],
    );
    // What a flag says that is so anyway changes nothing.
    let mut silent = dialogue();
    silent[1].extra.insert("weight".to_owned(), 0.into());
    check(&silent, TrainOn::LastTurn, &["6<|im_end|>"]);
    // Everything after the last user message is one turn.
    let acting = [
        Message::user("Weather?"),
        Message::assistant("I look."),
        Message::new("tool", "sunny"),
        Message::assistant("Sunny."),
    ];
    check(
        &acting,
        TrainOn::LastTurn,
        &["I look.<|im_end|>", "Sunny.<|im_end|>"],
    );
}

#[test]
fn a_template_without_tags_trains_the_same_tokens() {
    let published: Map<String, Value> = fixtures::json("chat/templates.json");
    let untagged = published["chatml_nogen"].as_str().unwrap();
    let untagged = ChatTemplate::new("chatml_nogen", untagged).unwrap();
    let mut flagged = dialogue();
    flagged[2] = Message::assistant("4").with("train", false);
    for messages in [dialogue(), flagged] {
        for policy in [TrainOn::Assistant, TrainOn::LastTurn, TrainOn::All] {
            let options = train_on(policy);
            let tagged = chatml(options.clone())
                .encode("r", &chat(&messages))
                .unwrap();
            let traced = encoder(&untagged, options)
                .encode("r", &chat(&messages))
                .unwrap();
            assert_eq!(tagged, traced, "{policy:?}");
        }
    }
}

/// Training each assistant message alone and putting the labels together trains what training all of them does.
#[test]
fn the_messages_of_a_conversation_partition_its_labels() {
    let published: Map<String, Value> = fixtures::json("chat/templates.json");
    let published = published
        .iter()
        .map(|(name, source)| ChatTemplate::new(name.as_str(), source.as_str().unwrap()).unwrap());
    let builtin = BUILTIN_TEMPLATES
        .iter()
        .map(|name| ChatTemplate::builtin(name).unwrap());
    let mut compared = 0;
    for template in published.chain(builtin) {
        let options = EncodeOptions {
            missing_eos: Strictness::Ignore,
            ..EncodeOptions::default()
        };
        let encoder = encoder(&template, options);
        for (name, messages) in conversations() {
            let Ok(all) = encoder.encode(&name, &chat(&messages)) else {
                continue;
            };
            let (all, _) = sequence(all);
            let speakers: Vec<usize> = (0..messages.len())
                .filter(|&index| messages[index].role == "assistant")
                .collect();
            if speakers.len() < 2 {
                continue;
            }
            let mut union = vec![IGNORE_INDEX; all.len()];
            for alone in &speakers {
                let mut flagged = messages.clone();
                for other in speakers.iter().filter(|other| *other != alone) {
                    flagged[*other]
                        .extra
                        .insert("train".to_owned(), false.into());
                }
                let encoded = match encoder.encode(&name, &chat(&flagged)) {
                    Ok(encoded) => encoded,
                    // A message of which the template shows nothing has nothing to train.
                    Err(Error::Record { source, .. })
                        if matches!(*source, Error::NothingTrained { .. }) =>
                    {
                        continue;
                    }
                    Err(error) => panic!("{}, {name}: {error}", template.name()),
                };
                let (one, _) = sequence(encoded);
                assert_eq!(one.input_ids, all.input_ids, "{}, {name}", template.name());
                for (label, one) in union.iter_mut().zip(one.labels) {
                    if one != IGNORE_INDEX {
                        assert_eq!(*label, IGNORE_INDEX, "{}, {name}", template.name());
                        *label = one;
                    }
                }
            }
            assert_eq!(union, all.labels, "{}, {name}", template.name());
            compared += 1;
        }
    }
    assert!(compared >= 50, "{compared}");
}

#[test]
fn examples_with_nothing_to_learn_are_refused() {
    let check = |messages: &[Message], policy, expected: &str| {
        let result = chatml(train_on(policy)).encode("train.jsonl:7", &chat(messages));
        assert_eq!(result.unwrap_err().to_string(), expected);
    };
    let mut flagged = dialogue();
    for index in [2, 4] {
        flagged[index]
            .extra
            .insert("train".to_owned(), false.into());
    }
    check(
        &flagged,
        TrainOn::Assistant,
        "train.jsonl:7: none of the 76 tokens is trained: every assistant message is marked as not trained",
    );
    check(
        &dialogue()[..2],
        TrainOn::Assistant,
        "train.jsonl:7: chat template \"chatml\": none of the 32 tokens was written by the assistant",
    );
    check(
        &dialogue()[..4],
        TrainOn::LastTurn,
        "train.jsonl:7: none of the 62 tokens is trained: \
         no assistant message that is trained follows the last user message",
    );
    check(&[], TrainOn::Assistant, "train.jsonl:7: messages is empty");
    let flag =
        |key: &str, value: Value| [Message::user("a"), Message::assistant("b").with(key, value)];
    check(
        &flag("train", json!("no")),
        TrainOn::Assistant,
        "train.jsonl:7: message 1: train must be true or false, got \"no\"",
    );
    check(
        &flag("weight", json!(0.5)),
        TrainOn::Assistant,
        "train.jsonl:7: message 1: weight must be 0 or 1, got 0.5",
    );
    let both = [
        Message::user("a"),
        Message::assistant("b")
            .with("train", true)
            .with("weight", 0),
    ];
    check(
        &both,
        TrainOn::Assistant,
        "train.jsonl:7: message 1: train and weight contradict each other",
    );
    let user = |train: bool| {
        let user = Message::user("a").with("train", train);
        [user, Message::assistant("b")]
    };
    check(
        &user(true),
        TrainOn::Assistant,
        "train.jsonl:7: message 0: marked as trained, but the role is \"user\", not assistant",
    );
    check(
        &user(false),
        TrainOn::All,
        "train.jsonl:7: message 0: marked as not trained, but the role is \"user\", not assistant, \
         and every token is trained",
    );
    let everything = ChatTemplate::new(
        "all.jinja",
        "{% generation %}{% for m in messages %}{{ m.content }}{% endfor %}{% endgeneration %}",
    )
    .unwrap();
    let result = encoder(&everything, EncodeOptions::default()).encode("r", &chat(&dialogue()));
    assert!(matches!(
        cause(result, "r"),
        Error::AssistantMaskFull { tokens: 19.., .. }
    ));
}

#[test]
fn a_conversation_needs_a_template() {
    let encoder = Encoder::new(chat_tokenizer(), None, EncodeOptions::default()).unwrap();
    let result = encoder.encode("r", &chat(&dialogue()));
    assert_eq!(
        result.unwrap_err().to_string(),
        "r: a chat example needs a chat template, but there is none"
    );
    let without_eos = fixtures::tokenizer("wordpiece");
    let error = Encoder::new(without_eos, None, EncodeOptions::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "append_eos is true, but the tokenizer has no eos token"
    );
}

/// A span that cannot be assigned to its message is an error, never a guess.
#[test]
fn a_template_that_marks_the_last_message_alone_is_not_guessed_at() {
    let last_only = ChatTemplate::new(
        "last.jinja",
        "{% for m in messages %}<|im_start|>{% if loop.last %}{% generation %}{{ m.content }}<|im_end|>\
         {% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}",
    )
    .unwrap();
    let encoder = encoder(&last_only, train_on(TrainOn::LastTurn));
    let result = encoder.encode("r", &chat(&dialogue()));
    assert!(matches!(
        cause(result, "r"),
        Error::AssistantSpanNotFound { .. }
    ));
}

#[test]
fn a_token_that_straddles_the_boundary_belongs_to_the_completion() {
    let tokenizer = chat_tokenizer();
    let encoder = Encoder::new(chat_tokenizer(), None, EncodeOptions::default()).unwrap();
    let text = "the answer is the number that you know";
    let mut straddling = 0;
    for cut in 1..text.len() {
        let (prompt, completion) = text.split_at(cut);
        let example = Example::Completion {
            prompt: prompt.to_owned(),
            completion: completion.to_owned(),
        };
        let (encoded, notes) = sequence(encoder.encode("r", &example).unwrap());
        assert!(notes.is_empty(), "{notes:?}");
        let mut whole = tokenizer.encode(text, false).unwrap();
        whole.push(tokenizer.special().eos.as_ref().unwrap().id);
        assert_eq!(encoded.input_ids, whole);
        let [trained] = &trained_text(&tokenizer, &encoded)[..] else {
            panic!("one run")
        };
        let ending = format!("{completion}<|im_end|>");
        assert!(trained.ends_with(&ending), "{prompt:?}: {trained:?}");
        let extra = trained.len() - ending.len();
        // What is trained beyond the completion is a part of one token.
        let first = encoded
            .labels
            .iter()
            .position(|&label| label != IGNORE_INDEX)
            .unwrap();
        let token = tokenizer
            .decode(&encoded.input_ids[first..=first], false)
            .unwrap();
        assert!(extra < token.len(), "{prompt:?}");
        straddling += usize::from(extra > 0);
    }
    assert!(straddling > 0);
}

#[test]
fn a_text_is_trained_from_end_to_end_and_ended_once() {
    let tokenizer = chat_tokenizer();
    let encoder = Encoder::new(tokenizer.clone(), None, EncodeOptions::default()).unwrap();
    let ended = tokenizer.encode("Hello<|im_end|>", false).unwrap();
    for text in ["Hello", "Hello<|im_end|>"] {
        let (encoded, notes) = sequence(
            encoder
                .encode("r", &Example::Text(text.to_owned()))
                .unwrap(),
        );
        assert_eq!(encoded.input_ids, ended);
        let labels: Vec<i64> = ended.iter().map(|&id| i64::from(id)).collect();
        assert_eq!(encoded.labels, labels);
        assert_eq!(encoded.num_supervised_tokens(), ended.len() - 1);
        assert!(notes.is_empty());
    }
    let empty = encoder.encode("r", &Example::Text(String::new()));
    assert_eq!(empty.unwrap_err().to_string(), "r: text is empty");
}

proptest! {
    #[test]
    fn completions_lose_no_text(prompt in "\\PC{0,20}", completion in "\\PC{1,20}") {
        let tokenizer = chat_tokenizer();
        let encoder = Encoder::new(tokenizer.clone(), None, EncodeOptions::default()).unwrap();
        let example = Example::Completion { prompt: prompt.clone(), completion: completion.clone() };
        let (encoded, _) = sequence(encoder.encode("r", &example).unwrap());
        let text = tokenizer.decode(&encoded.input_ids, false).unwrap();
        prop_assert_eq!(text, format!("{prompt}{completion}<|im_end|>"));
        let first = encoded.labels.iter().position(|&label| label != IGNORE_INDEX).unwrap();
        prop_assert!(encoded.labels[first..].iter().all(|&label| label != IGNORE_INDEX));
        // A byte of an unfinished character at the end of the prompt's tokens decodes to a replacement character.
        let given = tokenizer.decode(&encoded.input_ids[..first], false).unwrap();
        prop_assert!(prompt.starts_with(given.trim_end_matches('\u{fffd}')), "{:?}", given);
    }

    #[test]
    fn chats_train_the_assistant_exactly(words in proptest::collection::vec(("\\PC{1,12}", "\\PC{1,12}"), 1..4)) {
        let tokenizer = chat_tokenizer();
        let messages: Vec<Message> = words
            .iter()
            .flat_map(|(user, assistant)| [Message::user(user), Message::assistant(assistant)])
            .collect();
        let (encoded, _) = sequence(chatml(EncodeOptions::default()).encode("r", &chat(&messages)).unwrap());
        let expected: Vec<String> = words.iter().map(|(_, assistant)| format!("{assistant}<|im_end|>")).collect();
        prop_assert_eq!(trained_text(&tokenizer, &encoded), expected);
    }
}
