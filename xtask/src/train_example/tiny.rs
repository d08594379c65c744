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
    if super::is_alignment(recipe) {
        let pairs: String = (0..40)
            .map(|n| {
                format!(
                    "{{\"prompt\": \"Is {n} so?\", \"chosen\": \"yes yes {n}\", \"rejected\": \"no\"}}\n"
                )
            })
            .collect();
        write(&workshop.join("pairs.jsonl"), &pairs)?;
        return alignment_sets(workshop, recipe);
    }
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

/// Writes sums in steps, some of them wrong; the key that names the file.
pub(super) fn steps(workshop: &Path) -> Result<String> {
    let line = |n: usize| {
        let (a, b, c) = (2 + n % 7, 3 + n % 5, 1 + n % 9);
        let (first, second) = (n.is_multiple_of(2), n.is_multiple_of(3));
        let (x, y) = (
            a + b + usize::from(!first),
            a + b + c + 2 * usize::from(!second),
        );
        format!(
            "{{\"prompt\": \"{a} + {b} + {c}?\", \"completions\": [\"{a} + {b} = {x}\", \"so it is {y}\"], \
             \"labels\": [{first}, {second}]}}\n"
        )
    };
    fs::create_dir_all(workshop).with_context(|| workshop.display().to_string())?;
    let path = workshop.join("steps.jsonl");
    write(&path, &(0..400).map(line).collect::<String>())?;
    Ok(format!("data.sources=[{{ paths = [{}] }}]", quoted(&path)))
}

/// A recipe of alignment in small.
fn alignment_sets(workshop: &Path, recipe: &str) -> Result<Vec<String>> {
    let pairs = format!(
        "[{{ paths = [{}] }}]",
        quoted(&workshop.join("pairs.jsonl"))
    );
    let texts = format!("[{{ paths = [{}] }}]", quoted(&workshop.join("data.jsonl")));
    let mut sets = vec![
        format!("model.path={}", quoted(&workshop.join("model"))),
        "model.dtype=f32".to_owned(),
        "data.max_length=96".to_owned(),
        "data.chat_template=chatml".to_owned(),
        "optim.learning_rate=0.005".to_owned(),
        format!("run.output={}", quoted(&workshop.join("runs").join(recipe))),
    ];
    let online = ["ppo", "grpo"].contains(&recipe);
    sets.push(match recipe {
        super::PROCESS_REWARD => steps(workshop)?,
        _ if online => format!("data.sources={texts}"),
        _ => format!("data.sources={pairs}"),
    });
    if online || recipe == "rlhf" {
        for set in ["prompts=4", "max_completion_length=8"] {
            sets.push(format!("online.options.rollout.{set}"));
        }
    }
    if recipe == "rlhf" {
        sets.push(format!("sft.own.data.sources={texts}"));
        for stage in ["sft", "reward_model", "online"] {
            sets.push(format!("{stage}.own.max_steps=6"));
        }
    } else {
        sets.push("schedule.max_steps=12".to_owned());
    }
    if recipe == "dpo" {
        sets.push(format!("evaluation.pairs={pairs}"));
        sets.push(format!("evaluation.text={texts}"));
    }
    Ok(sets)
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
