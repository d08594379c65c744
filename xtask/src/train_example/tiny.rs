//! Models of the tests and small datasets, where nothing is downloaded.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// A decoder with a tokenizer: file in `fixtures`, file in the model's folder.
const DECODER: [(&str, &str); 4] = [
    ("training/base/config.json", "config.json"),
    ("training/base/model.safetensors", "model.safetensors"),
    ("chat/tokenizer/tokenizer.json", "tokenizer.json"),
    (
        "chat/tokenizer/tokenizer_config.json",
        "tokenizer_config.json",
    ),
];

/// An encoder with a head for three classes.
const ENCODER: [(&str, &str); 3] = [
    ("models/bert_cls/config.json", "config.json"),
    ("models/bert_cls/model.safetensors", "model.safetensors"),
    ("tokenizers/bytelevel_bpe.json", "tokenizer.json"),
];

/// The words that the classes of the small dataset are told by.
const CLASSES: [(&str, &str); 3] = [
    ("count", "one two three"),
    ("greeting", "hello there"),
    ("question", "why and how?"),
];

/// Puts what a recipe trains into `workshop`; the keys that it needs other values for.
pub(super) fn prepare(root: &Path, workshop: &Path, recipe: &str) -> Result<Vec<String>> {
    if recipe == super::CLASSIFIER {
        copy(root, &ENCODER, &workshop.join("encoder"))?;
        let lines: String = (0..120)
            .map(|n| {
                let (class, words) = CLASSES[n % 3];
                format!("{{\"text\": \"{words} {n}\", \"label\": \"{class}\"}}\n")
            })
            .collect();
        write(&workshop.join("classes.jsonl"), &lines)?;
        return Ok(classifier_sets(workshop));
    }
    copy(root, &DECODER, &workshop.join("model"))?;
    let instructions = |said: &str, answer: &str| -> String {
        (1..=40)
            .map(|n| format!("{{\"instruction\": \"{said} {n}\", \"output\": \"{answer}\"}}\n"))
            .collect()
    };
    let own = instructions("Say", "one two three four five");
    write(&workshop.join("data.jsonl"), &own)?;
    let general = instructions("Repeat", "six seven");
    write(&workshop.join("general.jsonl"), &general)?;
    Ok(decoder_sets(workshop, recipe))
}

fn copy(root: &Path, files: &[(&str, &str)], to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    for (from, name) in files {
        let from = root.join("fixtures").join(from);
        fs::copy(&from, to.join(name)).with_context(|| from.display().to_string())?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| path.display().to_string())
}

fn quoted(path: &Path) -> String {
    format!("{:?}", path.display().to_string())
}

fn decoder_sets(workshop: &Path, recipe: &str) -> Vec<String> {
    let own = quoted(&workshop.join("data.jsonl"));
    let general = quoted(&workshop.join("general.jsonl"));
    let sources = match recipe {
        super::CHATBOT => format!(
            "[{{ paths = [{own}], weight = 0.8, repeats = 2 }}, \
             {{ paths = [{general}], weight = 0.2, repeats = \"endless\" }}]"
        ),
        _ => format!("[{{ paths = [{own}] }}]"),
    };
    let learning_rate = match recipe {
        "prompt_tuning" => "0.1",
        "full_sft" => "0.003",
        _ => "0.01",
    };
    vec![
        format!("model.path={}", quoted(&workshop.join("model"))),
        format!("data.sources={sources}"),
        "data.validation=0.2".to_owned(),
        "data.max_length=96".to_owned(),
        "data.chat_template=chatml".to_owned(),
        format!("optim.learning_rate={learning_rate}"),
        "schedule.max_steps=20".to_owned(),
        "run.eval_steps=10".to_owned(),
        "run.save_steps=10".to_owned(),
        "run.sample_tokens=16".to_owned(),
        "run.sample_prompts=[\"Say 7\"]".to_owned(),
        format!("run.output={}", quoted(&workshop.join("runs").join(recipe))),
    ]
}

fn classifier_sets(workshop: &Path) -> Vec<String> {
    let data = quoted(&workshop.join("classes.jsonl"));
    let names: Vec<String> = CLASSES
        .iter()
        .map(|(name, _)| format!("{name:?}"))
        .collect();
    vec![
        format!("model.path={}", quoted(&workshop.join("encoder"))),
        format!("classifier.classes=[{}]", names.join(", ")),
        format!("data.sources=[{{ paths = [{data}] }}]"),
        "data.validation=0.25".to_owned(),
        "data.max_length=64".to_owned(),
        "optim.learning_rate=0.01".to_owned(),
        "optim.batch_size=8".to_owned(),
        "schedule.max_steps=30".to_owned(),
        "run.eval_steps=10".to_owned(),
        format!(
            "run.output={}",
            quoted(&workshop.join("runs").join(super::CLASSIFIER))
        ),
    ]
}
