//! The report on a dataset.

use flametune_data::{
    CheckOptions, Checker, EncodeOptions, Encoder, Error, Example, Message, Preview, Strictness,
    Truncation, check,
};

use crate::encode::{chat, chatml, sequence};
use crate::fixtures::{chat_tokenizer, tokenizer};

fn dialogue(question: &str, answer: &str) -> Example {
    chat(&[Message::user(question), Message::assistant(answer)])
}

fn dataset() -> Vec<Result<Example, Error>> {
    let broken = Error::InvalidJson {
        file: "train.jsonl".to_owned(),
        line: 6,
        column: 14,
        reason: "expected `,` or `}`".to_owned(),
    };
    let steps = "step ".repeat(60);
    vec![
        Ok(dialogue("What is 2 + 2?", "4")),
        Ok(Example::Completion {
            prompt: "naïve".to_owned(),
            completion: " café \u{1b}[31m日本語".to_owned(),
        }),
        Ok(dialogue("What is 2 + 2?", "4")),
        Ok(dialogue("How?", &steps)),
        Ok(chat(&[Message::user("Anyone there?")])),
        Err(broken),
        Ok(Example::Text("Once upon a time".to_owned())),
        Ok(Example::Preference {
            prompt: vec![Message::user("Hi")],
            chosen: vec![Message::assistant("Hello!")],
            rejected: vec![Message::assistant("What?")],
            margin: None,
        }),
        Ok(dialogue("Silent?", "yes")),
        Ok(chat(&[])),
    ]
}

fn options() -> EncodeOptions {
    EncodeOptions {
        max_length: Some(128),
        truncation: Truncation::Right,
        ..EncodeOptions::default()
    }
}

#[test]
fn the_report_reads_like_this() {
    let look = CheckOptions {
        max_errors: 2,
        previews: 2,
        vocab_size: Some(290),
    };
    let report = check(&chatml(options()), look, dataset());
    insta::assert_snapshot!("report", report.to_string());
    assert!(!report.is_clean());
    assert!(!report.to_string().contains('\u{1b}'));
    insta::assert_snapshot!(
        "report_in_colour",
        format!("{report:#}").replace('\u{1b}', "ESC")
    );
}

#[test]
fn the_counts_of_a_report_are_exact() {
    let report = check(&chatml(options()), CheckOptions::default(), dataset());
    assert_eq!(report.records, 10);
    assert_eq!((report.encoded, report.failed, report.dropped), (7, 3, 0));
    assert_eq!((report.duplicates, report.truncated), (1, 1));
    assert_eq!((report.unreadable, report.untrained), (1, 1));
    assert_eq!(report.errors.len(), 3);
    assert_eq!(
        report.errors[1].message,
        "train.jsonl:6:14: expected `,` or `}`"
    );
    // Seven records, one of them a pair.
    assert_eq!(report.lengths.count(), 8);
    assert_eq!(report.lengths.tokens(), report.labelled_tokens);
    assert_eq!(report.lengths.percentile(100), 128);
    let dropping = EncodeOptions {
        truncation: Truncation::Drop,
        ..options()
    };
    let report = check(&chatml(dropping), CheckOptions::default(), dataset());
    assert_eq!((report.encoded, report.failed, report.dropped), (6, 3, 1));
    let refusing = EncodeOptions {
        truncation: Truncation::Error,
        ..options()
    };
    let report = check(&chatml(refusing), CheckOptions::default(), dataset());
    assert_eq!((report.failed, report.too_long), (4, 1));
}

#[test]
fn unknown_tokens_and_ids_beyond_the_embedding_are_counted() {
    let options = EncodeOptions {
        append_eos: false,
        missing_eos: Strictness::Ignore,
        ..EncodeOptions::default()
    };
    let text = "the 漢 news 字";
    let tokenizer = tokenizer("wordpiece");
    let unk = tokenizer.token_to_id("[UNK]").unwrap();
    let ids = tokenizer.encode(text, true).unwrap();
    let unknown = ids.iter().filter(|&&id| id == unk).count();
    assert!(unknown > 0);
    let named = tokenizer.special().unk.is_some();
    let encoder = Encoder::new(tokenizer, None, options).unwrap();
    let look = CheckOptions {
        vocab_size: Some(1),
        ..CheckOptions::default()
    };
    let mut checker = Checker::new(&encoder, look);
    let text = text.to_owned();
    checker.add("news.csv:2", &Example::Classified { text, label: 0 });
    let report = checker.finish();
    assert_eq!(report.unk_tokens, if named { unknown } else { 0 });
    let beyond = ids.iter().filter(|&&id| id >= 1).count();
    assert_eq!(report.out_of_vocabulary, beyond);
    assert!(report.previews.is_empty());
}

#[test]
fn a_preview_shows_every_character_once() {
    let encoder = chatml(EncodeOptions::default());
    let tokenizer = chat_tokenizer();
    let example = dialogue("naïve 日本語?", "😀 café");
    let (encoded, _) = sequence(encoder.encode("r", &example).unwrap());
    let preview = Preview::new("r", &encoded, &tokenizer).unwrap();
    assert_eq!(
        preview.to_string(),
        "<|im_start|>user\nnaïve 日本語?<|im_end|>\n<|im_start|>assistant\n⟦😀 café<|im_end|>⟧\n"
    );
    let text: String = preview.runs.iter().map(|run| run.text.as_str()).collect();
    assert_eq!(text, tokenizer.decode(&encoded.input_ids, false).unwrap());
    let tokens: usize = preview.runs.iter().map(|run| run.tokens).sum();
    assert_eq!(tokens, encoded.len());
}

/// A report goes through JSON for tools that read it.
#[test]
fn a_report_is_data() {
    let report = check(&chatml(options()), CheckOptions::default(), dataset());
    let value = serde_json::to_value(&report).unwrap();
    assert_eq!(value["records"], 10);
    assert_eq!(value["previews"][0]["runs"][1]["trained"], true);
}
