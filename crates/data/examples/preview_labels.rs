//! Shows which tokens of a dataset would be trained, and what is wrong with it.
//!
//! ```text
//! cargo run -p flametune-data --example preview_labels -- FOLDER                      # a small built-in dataset
//! cargo run -p flametune-data --example preview_labels -- FOLDER messages.jsonl       # one conversation per line
//! cargo run -p flametune-data --example preview_labels -- FOLDER messages.jsonl last  # the last turn alone
//! ```
//!
//! `FOLDER` is a model folder with a `tokenizer.json`, such as `fixtures/chat/tokenizer`. A line of the file is an
//! object with `messages`. Trained text is green in a terminal and stands between ⟦ and ⟧ elsewhere.

use std::error::Error;
use std::io::{IsTerminal, Write};
use std::path::Path;

use flametune_data::{
    ChatTemplate, CheckOptions, Checker, EncodeOptions, Encoder, Example, Message, Tokenizer,
    TrainOn,
};
use serde::Deserialize;
use serde_json::Value;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("give a model folder")?;
    let file = arguments.next();
    let train_on = match arguments.next().as_deref() {
        None | Some("assistant") => TrainOn::Assistant,
        Some("last") => TrainOn::LastTurn,
        Some("all") => TrainOn::All,
        Some(other) => return Err(format!("assistant, last or all, not {other}").into()),
    };
    let template = match ChatTemplate::from_folder(Path::new(&folder))? {
        Some(template) => template,
        None => ChatTemplate::builtin("chatml")?,
    };
    let options = EncodeOptions {
        train_on,
        ..EncodeOptions::default()
    };
    let tokenizer = Tokenizer::from_folder(Path::new(&folder))?;
    let encoder = Encoder::new(tokenizer, Some(template), options)?;
    let mut checker = Checker::new(&encoder, CheckOptions::default());
    match file {
        None => {
            for (number, example) in (1..).zip(built_in()) {
                checker.add(&format!("record {number}"), &example);
            }
        }
        Some(file) => {
            for (line, text) in (1..).zip(std::fs::read_to_string(&file)?.lines()) {
                let place = format!("{file}:{line}");
                match conversation(text) {
                    Ok(example) => checker.add(&place, &example),
                    Err(source) => checker.add_error(&flametune_data::Error::InvalidJson {
                        file: file.clone(),
                        line,
                        column: source.column(),
                        reason: source.to_string(),
                    }),
                }
            }
        }
    }
    let report = checker.finish();
    let mut out = std::io::stdout().lock();
    match out.is_terminal() {
        true => write!(out, "{report:#}")?,
        false => write!(out, "{report}")?,
    }
    Ok(())
}

/// The conversation of one line.
fn conversation(line: &str) -> serde_json::Result<Example> {
    #[derive(Deserialize)]
    struct Record {
        messages: Vec<Message>,
        tools: Option<Vec<Value>>,
    }
    let Record { messages, tools } = serde_json::from_str(line)?;
    Ok(Example::Chat { messages, tools })
}

fn built_in() -> Vec<Example> {
    let dialogue = [
        Message::user("What is 2 + 2?"),
        Message::assistant("5").with("train", false),
        Message::user("Really?"),
        Message::assistant("No: 4."),
    ];
    vec![
        Example::Chat {
            messages: dialogue.to_vec(),
            tools: None,
        },
        Example::Completion {
            prompt: "The capital of France is".to_owned(),
            completion: " Paris.".to_owned(),
        },
        Example::Preference {
            prompt: vec![Message::user("Say hello.")],
            chosen: vec![Message::assistant("Hello!")],
            rejected: vec![Message::assistant("No.")],
            margin: None,
        },
        Example::Chat {
            messages: vec![Message::user("Is anyone there?")],
            tools: None,
        },
    ]
}
