//! Answers compared and judged: the same prompt, the same room.

use flametune_data::{
    ChatTemplate, EncodeOptions, EncodedJudged, EncodedPair, EncodedRecord, EncodedText, Encoder,
    Error, Example, IGNORE_INDEX, KeepPrompt, Message, Note, Outcome, Truncation,
};

use crate::encode::{cause, chatml, encoder, trained_text};
use crate::fixtures::chat_tokenizer;

fn preference(prompt: &str, chosen: &str, rejected: &str) -> Example {
    Example::Preference {
        prompt: vec![Message::user(prompt)],
        chosen: vec![Message::assistant(chosen)],
        rejected: vec![Message::assistant(rejected)],
        margin: Some(0.5),
    }
}

fn pair(outcome: Outcome) -> (EncodedPair, Vec<Note>) {
    match outcome {
        Outcome::Encoded {
            record: EncodedRecord::Pair(pair),
            notes,
        } => (pair, notes),
        other => panic!("{other:?}"),
    }
}

fn limited(max_length: usize, truncation: Truncation) -> EncodeOptions {
    EncodeOptions {
        max_length: Some(max_length),
        truncation,
        ..EncodeOptions::default()
    }
}

#[test]
fn pairs_share_the_tokens_of_the_prompt() {
    let tokenizer = chat_tokenizer();
    let encoder = chatml(EncodeOptions::default());
    let (pair, notes) = pair(
        encoder
            .encode("r", &preference("2 + 2?", "4", "five"))
            .unwrap(),
    );
    assert!(notes.is_empty(), "{notes:?}");
    let n = pair.prompt_tokens;
    let prompt = tokenizer
        .decode(&pair.chosen.input_ids[..n], false)
        .unwrap();
    assert_eq!(
        prompt,
        "<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n"
    );
    assert_eq!(pair.chosen.input_ids[..n], pair.rejected.input_ids[..n]);
    assert_eq!(trained_text(&tokenizer, &pair.chosen), ["4<|im_end|>\n"]);
    assert_eq!(
        trained_text(&tokenizer, &pair.rejected),
        ["five<|im_end|>\n"]
    );
    assert_eq!(pair.chosen.labels[..n], vec![IGNORE_INDEX; n]);
    assert_eq!(pair.margin, Some(0.5));
}

#[test]
fn cut_pairs_keep_one_prompt_and_as_much_of_either_answer() {
    let whole = pair(
        chatml(EncodeOptions::default())
            .encode(
                "r",
                &preference("count to ten", "one two three four", "1 2"),
            )
            .unwrap(),
    )
    .0;
    let n = whole.prompt_tokens;
    let (chosen, rejected) = (&whole.chosen.input_ids, &whole.rejected.input_ids);
    let longest = chosen.len();
    assert!(longest > rejected.len());
    for keep_prompt in [KeepPrompt::End, KeepPrompt::Start] {
        for limit in 4..=longest {
            for max_prompt_length in [None, Some(3)] {
                let options = EncodeOptions {
                    keep_prompt,
                    max_prompt_length,
                    ..limited(limit, Truncation::Right)
                };
                let example = preference("count to ten", "one two three four", "1 2");
                let outcome = chatml(options).encode("r", &example).unwrap();
                let (cut, notes) = pair(outcome);
                let reserved = max_prompt_length.unwrap_or(limit / 2);
                let room = n.min(limit.saturating_sub(longest - n).max(reserved));
                assert_eq!(cut.prompt_tokens, room);
                let prompt = match keep_prompt {
                    KeepPrompt::End => &chosen[n - room..n],
                    KeepPrompt::Start => &chosen[..room],
                };
                for (cut, whole) in [(&cut.chosen, chosen), (&cut.rejected, rejected)] {
                    let answer = &whole[n..whole.len().min(n + limit - room)];
                    assert_eq!(cut.input_ids, [prompt, answer].concat());
                    assert!(
                        cut.labels[..room]
                            .iter()
                            .all(|&label| label == IGNORE_INDEX)
                    );
                    assert!(
                        cut.labels[room..]
                            .iter()
                            .all(|&label| label != IGNORE_INDEX)
                    );
                }
                let expected = Note::Truncated {
                    tokens: longest,
                    kept: limit,
                };
                assert_eq!(
                    notes,
                    if limit < longest {
                        vec![expected]
                    } else {
                        vec![]
                    }
                );
            }
        }
    }
    let dropped = chatml(limited(longest - 1, Truncation::Drop))
        .encode(
            "r",
            &preference("count to ten", "one two three four", "1 2"),
        )
        .unwrap();
    assert_eq!(
        dropped,
        Outcome::Dropped {
            tokens: longest,
            limit: longest - 1
        }
    );
}

#[test]
fn a_bos_stays_at_the_front_of_a_cut_prompt() {
    let template = ChatTemplate::builtin("llama-3").unwrap();
    let tokenizer = chat_tokenizer();
    let options = EncodeOptions {
        max_prompt_length: Some(8),
        ..limited(20, Truncation::Left)
    };
    let example = preference(
        "a prompt of many words that must be cut",
        "yes",
        "no, never",
    );
    let whole = encoder(&template, EncodeOptions::default()).encode("r", &example);
    let whole = pair(whole.unwrap()).0;
    let (cut, _) = pair(encoder(&template, options).encode("r", &example).unwrap());
    assert_eq!(cut.prompt_tokens, 8);
    let bos = tokenizer.special().bos.as_ref().unwrap().id;
    let tail = &whole.chosen.input_ids[whole.prompt_tokens - 7..whole.prompt_tokens];
    for side in [&cut.chosen, &cut.rejected] {
        assert_eq!(side.input_ids[0], bos);
        assert_eq!(side.input_ids[1..8], *tail);
    }
}

#[test]
fn pairs_that_cannot_be_compared_are_refused() {
    let plain = ChatTemplate::new(
        "plain.jinja",
        "{% for m in messages %}{{ m.content }}{% endfor %}",
    )
    .unwrap();
    let plain = encoder(&plain, EncodeOptions::default());
    let tokenizer = chat_tokenizer();
    // The last letter of the prompt joins the first letters of one answer, but not those of the other.
    let joined = ["he", "the", "in", "er", "ou", "at"]
        .into_iter()
        .find(|word| tokenizer.encode(word, false).unwrap().len() == 1)
        .unwrap();
    let (prompt, rest) = joined.split_at(joined.len() - 1);
    let result = plain.encode("r", &preference(&format!("to {prompt}"), rest, "!"));
    assert!(matches!(
        cause(result, "r"),
        Error::PromptTokensDiffer { .. }
    ));

    let result = plain.encode("r", &preference("a", "b", "b"));
    assert!(matches!(
        cause(result, "r"),
        Error::EqualAnswers { tokens: 1 }
    ));
    let result = plain.encode("r", &preference("a", "b", ""));
    assert_eq!(cause(result, "r").to_string(), "rejected is empty");

    let counting = ChatTemplate::new(
        "count.jinja",
        "{{ messages | length }}{{ messages[-1].content }}",
    )
    .unwrap();
    let result =
        encoder(&counting, EncodeOptions::default()).encode("r", &preference("a", "b", "c"));
    assert_eq!(
        cause(result, "r").to_string(),
        "chat template \"count.jinja\": the prompt's text is not how the text with chosen begins"
    );
    let empty = Example::Preference {
        prompt: Vec::new(),
        chosen: vec![Message::assistant("a")],
        rejected: vec![Message::assistant("b")],
        margin: None,
    };
    let result = chatml(EncodeOptions::default()).encode("r", &empty);
    assert_eq!(cause(result, "r").to_string(), "prompt is empty");
}

#[test]
fn judged_answers_are_one_side_of_a_pair() {
    let encoder = chatml(EncodeOptions::default());
    let (pair, _) = pair(
        encoder
            .encode("r", &preference("2 + 2?", "4", "five"))
            .unwrap(),
    );
    let judged = Example::Judged {
        prompt: vec![Message::user("2 + 2?")],
        completion: vec![Message::assistant("five")],
        label: false,
    };
    let record = encoder.encode("r", &judged).unwrap().record().unwrap();
    let expected = EncodedJudged {
        example: pair.rejected,
        prompt_tokens: pair.prompt_tokens,
        label: false,
    };
    assert_eq!(record, EncodedRecord::Judged(expected));
}

#[test]
fn steps_end_at_their_last_tokens() {
    let example = |steps: &[&str], labels: &[bool]| Example::Stepwise {
        prompt: vec![Message::user("2 + 2 + 1?")],
        steps: steps.iter().map(|step| (*step).to_owned()).collect(),
        labels: labels.to_vec(),
    };
    let encoder = chatml(EncodeOptions::default());
    let steps = ["2 + 2 is 4.", "4 + 1 is 6."];
    let both = example(&steps, &[true, false]);
    let encoded = encoder.encode("r", &both).unwrap();
    let Some(EncodedRecord::Stepwise(found)) = encoded.record() else {
        panic!("no steps")
    };
    assert_eq!(found.labels, [true, false]);
    let tokenizer = encoder.tokenizer();
    let upto = |place: usize| {
        let text = tokenizer.decode(&found.input_ids[..=found.ends[place]], true);
        text.unwrap().trim_end().to_owned()
    };
    assert!(upto(0).ends_with("2 + 2 is 4."), "{}", upto(0));
    assert!(upto(1).ends_with("4 + 1 is 6."), "{}", upto(1));
    assert!(!upto(0).contains("4 + 1"));

    // A cut takes the steps that do not end before it.
    let limit = found.ends[1];
    let cutting = chatml(EncodeOptions {
        max_length: Some(limit),
        truncation: Truncation::Right,
        ..EncodeOptions::default()
    });
    let Some(EncodedRecord::Stepwise(cut)) = cutting.encode("r", &both).unwrap().record() else {
        panic!("no steps")
    };
    assert_eq!(
        (cut.ends.as_slice(), cut.labels.as_slice()),
        (&found.ends[..1], &[true][..])
    );
    assert_eq!(cut.input_ids, found.input_ids[..limit]);
    let short = chatml(EncodeOptions {
        max_length: Some(found.ends[0]),
        truncation: Truncation::Right,
        ..EncodeOptions::default()
    });
    let error = cause(short.encode("r", &both), "r").to_string();
    assert!(error.contains("took all steps"), "{error}");
}

#[test]
fn classified_texts_have_the_special_tokens_of_the_tokenizer() {
    let options = EncodeOptions {
        append_eos: false,
        ..EncodeOptions::default()
    };
    let tokenizer = crate::fixtures::tokenizer("wordpiece");
    let ids = tokenizer.encode("the news", true).unwrap();
    assert_eq!(tokenizer.id_to_token(ids[0]).as_deref(), Some("[CLS]"));
    let encoder = Encoder::new(tokenizer, None, options).unwrap();
    let example = Example::Classified {
        text: "the news".to_owned(),
        label: 3,
    };
    let record = encoder.encode("r", &example).unwrap().record().unwrap();
    let expected = EncodedText {
        input_ids: ids,
        label: 3,
    };
    assert_eq!(record, EncodedRecord::Classified(expected));
}
