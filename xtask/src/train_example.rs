//! `cargo xtask train-example`: a recipe of the command on a real model, or on a tiny one.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use xshell::cmd;

use crate::check::FEATURES;
use crate::{console, fetch, workspace};

/// What the bundled recipes name.
const ASSETS: [&str; 2] = ["smollm2-135m-instruct", "llamafactory-demo-data"];

/// The recipe that runs when none is named.
const DEFAULT: &str = "qlora_sft";

/// Where the bundled recipes are.
const RECIPES: &str = "crates/cli/recipes";

/// Which recipe, and how.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask train-example
  cargo xtask train-example lora_sft --set schedule.max_steps=20
  cargo xtask train-example --smoke          a few steps of a tiny model, downloads nothing")]
pub(crate) struct Args {
    /// One of the recipes in crates/cli/recipes
    #[arg(default_value = DEFAULT)]
    name: String,
    /// A few steps of a tiny model on a small dataset
    #[arg(long)]
    smoke: bool,
    /// Change a key of the recipe, such as optim.learning_rate=1e-4; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Fetches what the recipe needs, builds the command, and trains.
pub(crate) fn run(args: &Args) -> Result<()> {
    let shell = workspace::shell()?;
    let root = workspace::root();
    let recipe = root.join(RECIPES).join(format!("{}.toml", args.name));
    if !recipe.is_file() {
        bail!(
            "there is no recipe {}; there are: {}",
            args.name,
            names(&root)?.join(", ")
        );
    }
    let tiny = args.smoke || !fetched();
    let mut sets = Vec::new();
    if tiny {
        let workshop = root.join("target/train-example");
        tiny_model(&root, &workshop)?;
        sets.extend(tiny_sets(&workshop, &args.name));
    }
    sets.extend(args.set.iter().cloned());

    console::heading("building the command");
    let selection: &[&str] = if args.smoke {
        // The features of the tests, whose build is at hand where things are checked.
        &["--workspace", "--features", FEATURES]
    } else {
        &["--release", "--package", "flametune-cli"]
    };
    let built = cmd!(
        shell,
        "cargo build {selection...} --bin flametune --message-format json-render-diagnostics"
    )
    .quiet()
    .read()
    .context("the command does not build")?;
    let command = executable(&built).context("cargo named no executable")?;

    console::heading(&format!("training: {}", args.name));
    let sets: Vec<OsString> = sets
        .into_iter()
        .flat_map(|set| ["--set".into(), set.into()])
        .collect();
    cmd!(shell, "{command} train {recipe} --overwrite {sets...}")
        .quiet()
        .run()
        .context("training failed")
}

/// Fetches model and data; `false`, said aloud, where that cannot be done.
fn fetched() -> bool {
    for name in ASSETS {
        if let Err(error) = fetch::by_name(name) {
            console::warning(&format!(
                "{name} could not be fetched: {error:#}\n\
                 A tiny model of the tests is trained instead, on forty sentences: its loss falls, \
                 and its answers mean nothing."
            ));
            return false;
        }
    }
    true
}

fn names(root: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(root.join(RECIPES)).context(RECIPES)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.extend(name.strip_suffix(".toml").map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// The path of the command in what cargo prints about a build.
fn executable(messages: &str) -> Option<String> {
    messages.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_command = message["target"]["name"] == "flametune";
        is_command.then(|| message["executable"].as_str().map(str::to_owned))?
    })
}

/// Puts a tiny model with a tokenizer, and a dataset, into `workshop`.
fn tiny_model(root: &Path, workshop: &Path) -> Result<()> {
    let model = workshop.join("model");
    fs::create_dir_all(&model).with_context(|| model.display().to_string())?;
    for (from, to) in [
        ("training/base/config.json", "config.json"),
        ("training/base/model.safetensors", "model.safetensors"),
        ("chat/tokenizer/tokenizer.json", "tokenizer.json"),
        (
            "chat/tokenizer/tokenizer_config.json",
            "tokenizer_config.json",
        ),
    ] {
        let from = root.join("fixtures").join(from);
        fs::copy(&from, model.join(to)).with_context(|| from.display().to_string())?;
    }
    let lines: String = (1..=40)
        .map(|n| {
            format!("{{\"instruction\": \"Say {n}\", \"output\": \"one two three four five\"}}\n")
        })
        .collect();
    let data = workshop.join("data.jsonl");
    fs::write(&data, lines).with_context(|| data.display().to_string())
}

/// The recipe's keys that a tiny model needs other values for.
fn tiny_sets(workshop: &Path, name: &str) -> Vec<String> {
    let quoted = |path: PathBuf| format!("{:?}", path.display().to_string());
    let run = workshop.join("runs").join(name);
    vec![
        format!("model.path={}", quoted(workshop.join("model"))),
        format!(
            "data.sources=[{{ paths = [{}] }}]",
            quoted(workshop.join("data.jsonl"))
        ),
        "data.validation=0.2".to_owned(),
        "data.max_length=128".to_owned(),
        "data.chat_template=chatml".to_owned(),
        "optim.learning_rate=0.01".to_owned(),
        "schedule.max_steps=20".to_owned(),
        "run.eval_steps=10".to_owned(),
        "run.save_steps=10".to_owned(),
        "run.sample_tokens=16".to_owned(),
        "run.sample_prompts=[\"Say 7\"]".to_owned(),
        format!("run.output={}", quoted(run)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_found_among_the_messages_of_cargo() {
        let messages = r#"{"target":{"name":"flametune_lm"},"executable":null}
{"target":{"name":"flametune"},"executable":"/t/flametune"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages).as_deref(), Some("/t/flametune"));
        assert_eq!(executable("not json"), None);
    }

    #[test]
    fn the_default_recipe_is_there() {
        let names = names(&workspace::root()).unwrap();
        assert!(names.contains(&"qlora_sft".to_owned()), "{names:?}");
    }
}
