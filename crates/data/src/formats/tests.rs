//! Each format: what its records become, and what is said of records that are not of it.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::example::Example;
use crate::message::{Content, Message};
use crate::readers::Location;

fn record(row: &Value) -> Record {
    Record {
        row: row.as_object().unwrap().clone(),
        at: Location {
            file: Arc::from(Path::new("f.jsonl")),
            record: 3,
            line: Some(3),
        },
        left_out: Arc::new([]),
    }
}

fn turns(messages: &[Message]) -> String {
    let turn = |message: &Message| {
        let mut text = match &message.content {
            Content::Text(text) => format!("{}: {text}", message.role),
            other => format!("{}: {other:?}", message.role),
        };
        for call in message.tool_calls.iter().flatten() {
            text.push_str(&format!(" {call}"));
        }
        if !message.extra.is_empty() {
            text.push_str(&format!(" {}", Value::Object(message.extra.clone())));
        }
        text
    };
    messages.iter().map(turn).collect::<Vec<_>>().join(" | ")
}

fn shown(example: &Example) -> String {
    match example {
        Example::Chat { messages, tools } => match tools {
            None => turns(messages),
            Some(tools) => format!("{} # {}", turns(messages), json!(tools)),
        },
        Example::Preference {
            prompt,
            chosen,
            rejected,
            margin,
        } => format!(
            "{} + {} - {} {margin:?}",
            turns(prompt),
            turns(chosen),
            turns(rejected)
        ),
        Example::Judged {
            prompt,
            completion,
            label,
        } => format!("{} ? {} {label}", turns(prompt), turns(completion)),
        Example::Stepwise {
            prompt,
            steps,
            labels,
        } => format!("{} {steps:?} {labels:?}", turns(prompt)),
        other => format!("{other:?}"),
    }
}

/// Detects the format of a row and converts it.
#[allow(
    clippy::needless_pass_by_value,
    reason = "rows are written where they are passed"
)]
fn check(row: Value, format: Format, expected: &[&str]) {
    let record = record(&row);
    let detected = detect_format(std::slice::from_ref(&record)).unwrap();
    assert_eq!(detected.format, format, "{row}");
    check_as(&row, format, &ConvertOptions::default(), expected);
}

fn check_as(row: &Value, format: Format, options: &ConvertOptions, expected: &[&str]) {
    let examples = format.convert(&record(row), options);
    let shown: Vec<_> = match &examples {
        Ok(examples) => examples.iter().map(shown).collect(),
        Err(error) => vec![error.to_string()],
    };
    assert_eq!(shown, expected, "{row}");
}

/// What is said of a row that is not of the format.
#[allow(
    clippy::needless_pass_by_value,
    reason = "rows are written where they are passed"
)]
fn refused(row: Value, format: Format, expected: &str) {
    let expected = format!("f.jsonl:3: expected {expected}");
    check_as(&row, format, &ConvertOptions::default(), &[&expected]);
}

#[test]
fn alpaca() {
    check(
        json!({"instruction": "Add", "input": "1, 2", "output": "3", "text": "rendered"}),
        Format::Alpaca,
        &["user: Add\n1, 2 | assistant: 3"],
    );
    check(
        json!({"instruction": "Go on", "input": "", "output": "c", "system": "S", "history": [["q", "a"]]}),
        Format::Alpaca,
        &["system: S | user: q | assistant: a | user: Go on | assistant: c"],
    );
    let form = |alpaca| ConvertOptions {
        alpaca,
        ..ConvertOptions::default()
    };
    check_as(
        &json!({"instruction": "Add", "input": "1, 2", "output": "3"}),
        Format::Alpaca,
        &form(AlpacaForm::Keyed),
        &["user: Add {\"input\":\"1, 2\"} | assistant: 3"],
    );
    let completion = |input: Value| {
        let row = json!({"instruction": "Add", "input": input, "output": "3"});
        match &Format::Alpaca
            .convert(&record(&row), &form(AlpacaForm::Prompt))
            .unwrap()[..]
        {
            [Example::Completion { prompt, completion }] => (prompt.clone(), completion.clone()),
            other => panic!("{other:?}"),
        }
    };
    // The published prompts, `PROMPT_DICT` of Stanford Alpaca's `train.py`.
    assert_eq!(
        completion(json!("1, 2")).0,
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.\n\n### Instruction:\nAdd\n\n### Input:\n1, 2\n\n### Response:"
    );
    assert_eq!(completion(json!("")), ("Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\nAdd\n\n### Response:".into(), "3".into()));
    check_as(
        &json!({"instruction": "Add", "output": "3", "system": "S"}),
        Format::Alpaca,
        &form(AlpacaForm::Prompt),
        &["f.jsonl:3: expected a record that the Alpaca prompt has room for, got a system"],
    );
    refused(
        json!({"instruction": "Add", "input": "1"}),
        Format::Alpaca,
        "the key \"output\", got the keys instruction, input",
    );
    refused(
        json!({"instruction": "Add", "output": " "}),
        Format::Alpaca,
        "text in \"output\", got an empty string",
    );
    refused(
        json!({"instruction": "Add", "output": 3}),
        Format::Alpaca,
        "text in \"output\", got a number",
    );
    refused(
        json!({"instruction": "Add", "output": "3", "history": [["q"]]}),
        Format::Alpaca,
        "a pair of texts in history[0], got a list",
    );
}

#[test]
fn dolly_flan_orca_and_wizardlm() {
    check(
        json!({"instruction": "When?", "context": "In 1969.", "response": "1969", "category": "qa"}),
        Format::Dolly,
        &["user: When?\n\nIn 1969. | assistant: 1969"],
    );
    check(
        json!({"inputs": "q", "targets": "a", "task": "t"}),
        Format::Flan,
        &["user: q | assistant: a"],
    );
    check(
        json!({"id": "1", "system_prompt": "S", "question": "q", "response": "a"}),
        Format::Orca,
        &["system: S | user: q | assistant: a"],
    );
    check(
        json!({"id": "1", "system_prompt": "", "question": "q", "response": "a"}),
        Format::Orca,
        &["user: q | assistant: a"],
    );
    for row in [
        json!({"instruction": "q", "output": "a"}),
        json!({"idx": "1", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}),
    ] {
        check_as(
            &row,
            Format::WizardLm,
            &ConvertOptions::default(),
            &["user: q | assistant: a"],
        );
    }
}

#[test]
fn sharegpt() {
    check(
        json!({"id": "x", "system": "S", "conversations": [
            {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}),
        Format::ShareGpt,
        &["system: S | user: q | assistant: a"],
    );
    check(
        json!({"tools": "[{\"name\": \"f\", \"parameters\": {}}]", "conversations": [
            {"from": "human", "value": "q"},
            {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"x\": 1}}"},
            {"from": "observation", "value": "2"},
            {"from": "gpt", "value": "a"}]}),
        Format::ShareGpt,
        &[
            "user: q | assistant: Null {\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":{\"x\":1}}} \
             | tool: 2 | assistant: a # [{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{}}}]",
        ],
    );
    // As a cell of a CSV file.
    check(
        json!({"conversations": "[{\"from\": \"human\", \"value\": \"q\"}, {\"from\": \"gpt\", \"value\": \"a\"}]"}),
        Format::ShareGpt,
        &["user: q | assistant: a"],
    );
    refused(
        json!({"conversations": [{"from": "human", "value": "q"}]}),
        Format::ShareGpt,
        "a turn of the assistant in \"conversations\", got 1 turns of others",
    );
    refused(
        json!({"conversations": [{"from": "function_call", "value": "f(1)"}]}),
        Format::ShareGpt,
        "a call {\"name\", \"arguments\"} in conversations[0], got broken JSON: expected ident at line 1 column 2",
    );
    refused(
        json!({"conversations": [{"from": "human", "value": "q"}, {"value": "a"}]}),
        Format::ShareGpt,
        "the keys \"role\" and \"content\", or \"from\" and \"value\", in conversations[1], got the keys value",
    );
    refused(
        json!({"conversations": [], "images": ["x.jpg"]}),
        Format::ShareGpt,
        "text alone, got \"images\"",
    );
}

#[test]
fn openai_messages() {
    let call = json!({"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    check(
        json!({"tools": [{"type": "function", "function": {"name": "f"}}], "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": null, "tool_calls": [call], "weight": 0},
            {"role": "tool", "content": "2", "tool_call_id": "1"},
            {"role": "assistant", "content": "a", "train": true}]}),
        Format::OpenAi,
        &[
            "user: q | assistant: Null {\"id\":\"1\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}} {\"weight\":0} \
             | tool: 2 | assistant: a {\"train\":true} # [{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]",
        ],
    );
    // The filtered UltraChat has a prompt beside its messages.
    check(
        json!({"prompt": "q", "prompt_id": "7", "messages": [
            {"role": "user", "content": [{"type": "text", "text": "q"}]},
            {"role": "assistant", "content": [{"type": "text", "value": "a"}], "loss_weight": 1.0}]}),
        Format::OpenAi,
        &["user: q | assistant: a {\"loss_weight\":1.0}"],
    );
    refused(
        json!({"messages": [{"role": "usr", "content": "q"}]}),
        Format::OpenAi,
        "a role in messages[0] (human, user, prompter, gpt, chatgpt, bard, bing, model, assistant, system, developer, \
         tool, tool_response, function, function_response, observation, function_call, tool_call), got \"usr\"",
    );
    refused(
        json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": ""}]}),
        Format::OpenAi,
        "text or tool calls in messages[1].content, got nothing",
    );
    refused(
        json!({"messages": "q"}),
        Format::OpenAi,
        "a list in \"messages\", got a string",
    );
}

#[test]
fn ultrachat() {
    check(
        json!({"id": "0", "data": ["q", "a", "r", "b"]}),
        Format::UltraChat,
        &["user: q | assistant: a | user: r | assistant: b"],
    );
    refused(
        json!({"data": ["q"]}),
        Format::UltraChat,
        "at least two texts in \"data\", got 1",
    );
    refused(
        json!({"data": ["q", 2]}),
        Format::UltraChat,
        "text in data[1], got a number",
    );
}

/// A tree whose best path is not its first, with a deleted reply and an unanswered question.
fn tree() -> Value {
    let reply = |text: &str, role: &str, rank: Value, replies: Value| json!({"text": text, "role": role, "rank": rank, "replies": replies});
    json!({"message_tree_id": "t", "prompt": reply("q", "prompter", Value::Null, json!([
        reply("a1", "assistant", json!(1), json!([])),
        reply("a0", "assistant", json!(0), json!([
            reply("r", "prompter", Value::Null, json!([
                reply("b", "assistant", json!(0.0), json!([reply("unanswered", "prompter", Value::Null, json!([]))])),
            ])),
        ])),
        {"text": "bad", "role": "assistant", "rank": -1, "deleted": true, "replies": []},
    ]))})
}

#[test]
fn oasst_trees() {
    check(
        tree(),
        Format::OasstTree,
        &["user: q | assistant: a0 | user: r | assistant: b"],
    );
    check_as(
        &tree(),
        Format::OasstTree,
        &ConvertOptions {
            tree: TreePaths::All,
            ..ConvertOptions::default()
        },
        &[
            "user: q | assistant: a1",
            "user: q | assistant: a0 | user: r | assistant: b",
        ],
    );
    refused(
        json!({"prompt": {"text": "q", "role": "prompter", "replies": []}}),
        Format::OasstTree,
        "a tree with an answer of the assistant, got none",
    );
    refused(
        json!({"prompt": {"text": "q", "role": "robot", "replies": []}}),
        Format::OasstTree,
        "the role prompter or assistant, got \"robot\"",
    );
}

#[test]
fn oasst_rows_are_gathered_into_the_same_conversations() {
    let row = |id: &str, parent: Value, text: &str, role: &str, rank: Value| json!({"message_id": id, "parent_id": parent, "text": text, "role": role, "rank": rank});
    let null = Value::Null;
    let mut rows = vec![
        row("1", null.clone(), "q", "prompter", null.clone()),
        row("2", json!("1"), "a1", "assistant", json!(1)),
        row("3", json!("1"), "a0", "assistant", json!(0)),
        row("4", json!("3"), "r", "prompter", null.clone()),
        row("5", json!("4"), "b", "assistant", json!(0)),
        row("6", json!("1"), "bad", "assistant", json!(-1)),
        row("7", json!("6"), "follows bad", "prompter", null.clone()),
        row("8", null.clone(), "next", "prompter", null.clone()),
        row("9", json!("8"), "answer", "assistant", null),
        row("x", json!("nobody"), "orphan", "assistant", json!(0)),
    ];
    rows[5]["deleted"] = json!(true);
    let records: Vec<_> = rows.iter().map(record).collect();
    assert_eq!(detect_format(&records).unwrap().format, Format::OasstRows);
    let gathered = Format::OasstRows.gather(Box::new(records.into_iter().map(Ok)));
    let shown: Vec<String> = gathered
        .flat_map(|record| {
            match Format::OasstRows.convert(&record.unwrap(), &ConvertOptions::default()) {
                Ok(examples) => examples.iter().map(shown).collect(),
                Err(error) => vec![error.to_string()],
            }
        })
        .collect();
    assert_eq!(
        shown,
        [
            "user: q | assistant: a0 | user: r | assistant: b",
            "f.jsonl:3: expected the rows of a tree side by side, each after its parent, got the unknown parent_id \"nobody\"",
        ]
    );
}

#[test]
fn completion_and_text() {
    check(
        json!({"prompt": "q", "completion": " a"}),
        Format::Completion,
        &["Completion { prompt: \"q\", completion: \" a\" }"],
    );
    check(
        json!({"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]}),
        Format::Completion,
        &["user: q | assistant: a"],
    );
    check(
        json!({"text": "t", "url": "u"}),
        Format::Text,
        &["Text(\"t\")"],
    );
    refused(
        json!({"text": null}),
        Format::Text,
        "text in \"text\", got null",
    );
}

#[test]
fn preference_pairs() {
    for row in [
        json!({"prompt": "q", "chosen": "good", "rejected": "bad"}),
        json!({"conversations": [{"from": "human", "value": "q"}],
               "chosen": {"from": "gpt", "value": "good"}, "rejected": {"from": "gpt", "value": "bad"}}),
        json!({"instruction": "q", "input": "", "chosen": "good", "rejected": "bad"}),
        json!({"prompt": [{"role": "user", "content": "q"}],
               "chosen": [{"role": "assistant", "content": "good"}],
               "rejected": [{"role": "assistant", "content": "bad"}]}),
        json!({"chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}],
               "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "bad"}]}),
        json!({"prompt": "q",
               "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}],
               "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "bad"}]}),
        json!({"chosen": "\n\nHuman: q\n\nAssistant: good", "rejected": "\n\nHuman: q\n\nAssistant: bad"}),
        json!({"chosen": "q good", "rejected": "q bad"}),
    ] {
        check(
            row,
            Format::Preference,
            &["user: q + assistant: good - assistant: bad None"],
        );
    }
    check(
        json!({"chosen": "\n\nHuman: q\n\nAssistant: a\n\nHuman: r\n\nAssistant: the good",
               "rejected": "\n\nHuman: q\n\nAssistant: a\n\nHuman: r\n\nAssistant: the bad"}),
        Format::Preference,
        &["user: q | assistant: a | user: r + assistant: the good - assistant: the bad None"],
    );
    check(
        json!({"system": "S", "question": "q", "chosen": "good", "rejected": "bad",
               "score_chosen": 8.5, "score_rejected": 6}),
        Format::Preference,
        &["system: S | user: q + assistant: good - assistant: bad Some(2.5)"],
    );
    refused(
        json!({"prompt": "q", "chosen": "same", "rejected": "same"}),
        Format::Preference,
        "answers that differ, got the same answer twice",
    );
    refused(
        json!({"chosen": "x", "rejected": "y"}),
        Format::Preference,
        "a prompt, or one that both answers begin with, got none",
    );
    refused(
        json!({"prompt": "q", "chosen": "x", "rejected": ["y"]}),
        Format::Preference,
        "\"chosen\" and \"rejected\" both as text, as a turn or as a list of turns, got a string and a list",
    );
}

#[test]
fn judged_answers() {
    for row in [
        json!({"prompt": "q", "completion": "a", "label": true}),
        json!({"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}], "label": 1}),
        json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "label": true}),
        json!({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "kto_tag": "true"}),
    ] {
        check(row, Format::Judged, &["user: q ? assistant: a true"]);
    }
    refused(
        json!({"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "q"}], "label": true}),
        Format::Judged,
        "the assistant in the last turn of \"messages\", got another role",
    );
    refused(
        json!({"prompt": "q", "completion": "a", "label": "maybe"}),
        Format::Judged,
        "true or false in \"label\", got \"maybe\"",
    );
}

#[test]
fn scored_answers_are_pairs_of_a_best_and_a_worse_one() {
    check(
        json!({"input": "q ", "target_scores": {"a": 0, "b": 1, "c": 0.5}}),
        Format::Scored,
        &[
            "user: q + assistant: b - assistant: a None",
            "user: q + assistant: b - assistant: c None",
        ],
    );
    // A conversation, as the comparisons of helpful, honest and harmless answers have them.
    check(
        json!({
            "input": "q\n\nAssistant:  r\n\nHuman:  s",
            "target_scores": {"a": 1, "b": 0},
        }),
        Format::Scored,
        &["user: q | assistant: r | user: s + assistant: a - assistant: b None"],
    );
    refused(
        json!({"input": "q", "target_scores": {"a": 1, "b": 1}}),
        Format::Scored,
        "answers of different scores in \"target_scores\", got 2 answers of one score",
    );
    refused(
        json!({"input": "q", "target_scores": {"a": "x", "b": 1}}),
        Format::Scored,
        "a number for \"a\", got a string",
    );
}

#[test]
fn steps_are_right_or_wrong() {
    for row in [
        json!({"prompt": "q", "completions": ["a", " b\n"], "labels": [true, 0]}),
        json!({"prompt": [{"role": "user", "content": "q"}], "completions": ["a", "b"], "labels": [1, false]}),
    ] {
        check(
            row,
            Format::Stepwise,
            &["user: q [\"a\", \"b\"] [true, false]"],
        );
    }
    refused(
        json!({"prompt": "q", "completions": ["a", "b"], "labels": [true]}),
        Format::Stepwise,
        "as many labels as steps in \"completions\", at least one, got 1 labels of 2 steps",
    );
    refused(
        json!({"prompt": "q", "completions": ["a", ""], "labels": [true, true]}),
        Format::Stepwise,
        "text in completions[1], got an empty string",
    );
    refused(
        json!({"prompt": "q", "completions": ["a"], "labels": ["perhaps"]}),
        Format::Stepwise,
        "true or false in labels[0], got \"perhaps\"",
    );
}

#[test]
fn classification() {
    for label in [json!(2), json!("2")] {
        check(
            json!({"text": "t", "label": label}),
            Format::Classification,
            &["Classified { text: \"t\", label: 2 }"],
        );
    }
    let options = ConvertOptions {
        classes: vec!["ham".into(), "spam".into()],
        ..ConvertOptions::default()
    };
    let row = |label: Value| json!({"text": "t", "label": label});
    check_as(
        &row(json!("spam")),
        Format::Classification,
        &options,
        &["Classified { text: \"t\", label: 1 }"],
    );
    check_as(
        &row(json!(2)),
        Format::Classification,
        &options,
        &["f.jsonl:3: expected a class in \"label\" (ham, spam), got 2"],
    );
    refused(
        row(json!("spam")),
        Format::Classification,
        "a class index in \"label\" (give `classes` when labels are names), got \"spam\"",
    );
}

#[test]
fn unknown_and_ambiguous_records_are_told() {
    let error = detect_format(&[record(&json!({"q": "x", "a": "y"}))])
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("f.jsonl:3: no format has the keys q, a; map them with `columns`, or name one of the formats alpaca (instruction, output); dolly"),
        "{error}"
    );
    let both = json!({"instruction": "q", "output": "a", "data": ["q", "a"]});
    assert_eq!(
        detect_format(&[record(&both)]).unwrap_err().to_string(),
        "f.jsonl:3: the keys instruction, output, data fit the formats alpaca and ultrachat; name the one that is meant"
    );
    // One odd record among others does not matter.
    let good = json!({"inputs": "q", "targets": "a"});
    let records = [record(&json!({"x": 1})), record(&good), record(&good)];
    assert_eq!(
        detect_format(&records).unwrap().reason,
        "2 of 3 records have inputs and targets"
    );
}

#[test]
fn formats_have_names() {
    for format in Format::ALL {
        assert_eq!(format.name().parse::<Format>().unwrap(), format);
        let json = serde_json::to_string(&format).unwrap();
        assert_eq!(serde_json::from_str::<Format>(&json).unwrap(), format);
    }
    assert_eq!("OASST_tree".parse::<Format>().unwrap(), Format::OasstTree);
    let error = "alpacca".parse::<Format>().unwrap_err().to_string();
    assert!(
        error.starts_with("no format is called \"alpacca\"; did you mean alpaca? (known: "),
        "{error}"
    );
}

#[test]
fn columns_are_renamed() {
    let columns = |pairs: &[(&str, &str)]| {
        pairs
            .iter()
            .map(|(key, column)| ((*key).to_owned(), (*column).to_owned()))
            .collect()
    };
    let mut row = record(&json!({"q": "x", "prompt": "y", "rest": 1}));
    rename_columns(
        &mut row,
        &columns(&[("prompt", "q"), ("completion", "prompt")]),
    )
    .unwrap();
    assert_eq!(
        Value::Object(row.row),
        json!({"rest": 1, "completion": "y", "prompt": "x"})
    );
    let mut row = record(&json!({"input": [{"content": "a"}, {"content": "b"}], "meta.x": 1}));
    let nested = columns(&[("text", "input.1.content"), ("label", "meta.x")]);
    rename_columns(&mut row, &nested).unwrap();
    assert_eq!(
        (&row.row["text"], &row.row["label"]),
        (&json!("b"), &json!(1))
    );
    assert_eq!(
        rename_columns(&mut row, &columns(&[("text", "input.2.content")]))
            .unwrap_err()
            .to_string(),
        "f.jsonl:3: expected the key \"input.2.content\", got the keys input, label, text"
    );
    let mut row = record(&json!({"q": "x"}));
    assert_eq!(
        rename_columns(&mut row, &columns(&[("prompt", "question")]))
            .unwrap_err()
            .to_string(),
        "f.jsonl:3: expected the key \"question\", got the keys q"
    );
    let error = check_columns(&columns(&[("promt", "q")]))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("no key of a format is called \"promt\"; did you mean prompt?"),
        "{error}"
    );
}
