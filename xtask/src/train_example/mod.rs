//! `cargo xtask train-example`: a recipe of the command on a real model, or on a tiny one.

mod tiny;

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use crate::check::FEATURES;
use crate::{console, fetch, workspace};

/// What most of the bundled recipes name.
const ASSETS: [&str; 2] = ["smollm2-135m-instruct", "llamafactory-demo-data"];

/// What the classifier names.
const CLASSIFIER_ASSETS: [&str; 2] = ["all-minilm-l6-v2", "sarcasm-headlines"];

/// The recipe that runs when none is named.
const DEFAULT: &str = "qlora_sft";

/// The recipe of a classifier.
const CLASSIFIER: &str = "classifier";

/// The recipe whose result is merged and spoken to.
const CHATBOT: &str = "domain_chatbot";

/// The recipes of `flametune align`; they are short as they are.
const ALIGNMENT: [&str; 10] = [
    "reward_model",
    PROCESS_REWARD,
    "dpo",
    "ipo",
    "kto",
    "orpo",
    "simpo",
    "ppo",
    "grpo",
    "rlhf",
];

/// The recipe whose data is the user's own: a small set is written for it.
const PROCESS_REWARD: &str = "process_reward";

/// What the recipes of alignment name that measure with right and wrong answers.
const PAIRS: &str = "bigbench";

/// The recipes that do.
const WITH_PAIRS: [&str; 2] = ["reward_model", "dpo"];

/// Where the bundled recipes are.
const RECIPES: &str = "crates/cli/recipes";

/// Fewer steps than the recipes have, for a run of about ten minutes on two cores.
const SHORT: [&str; 3] = [
    "schedule.max_steps=60",
    "run.eval_steps=20",
    "run.save_steps=30",
];

/// Which recipe, and how.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask train-example
  cargo xtask train-example classifier
  cargo xtask train-example dpo
  cargo xtask train-example lora_sft --set schedule.max_steps=20
  cargo xtask train-example --smoke          a few steps of a tiny model, downloads nothing

The steps of a recipe of fine-tuning are cut to 60, about ten minutes on two cores; `--full` takes
them all. Recipes of alignment are as short as they are.")]
pub(crate) struct Args {
    /// One of the recipes in crates/cli/recipes
    #[arg(default_value = DEFAULT)]
    name: String,
    /// A few steps of a tiny model on a small dataset
    #[arg(long)]
    smoke: bool,
    /// All the steps of the recipe
    #[arg(long, conflicts_with = "smoke")]
    full: bool,
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
    let tiny = args.smoke || !fetched(&args.name);
    let mut sets = if tiny {
        tiny::prepare(&root, &root.join("target/train-example"), &args.name)?
    } else if args.name == PROCESS_REWARD {
        vec![tiny::steps(&root.join("target/train-example"))?]
    } else if args.full || args.name == CLASSIFIER || is_alignment(&args.name) {
        Vec::new()
    } else {
        SHORT.map(str::to_owned).to_vec()
    };
    sets.extend(args.set.iter().cloned());

    console::heading("building the command");
    let command = build(&shell, tiny)?;
    console::heading(&format!("training: {}", args.name));
    let begun = Instant::now();
    let flags: Vec<OsString> = sets
        .iter()
        .flat_map(|set| ["--set".into(), set.into()])
        .collect();
    let verb = match is_alignment(&args.name) {
        true => "align",
        false => "train",
    };
    cmd!(shell, "{command} {verb} {recipe} --overwrite {flags...}")
        .quiet()
        .run()
        .context("training failed")?;
    let minutes = begun.elapsed().as_secs_f64() / 60.0;
    console::note(&format!("trained in {minutes:.1} minutes"));
    if args.name == CHATBOT {
        let output = value(&sets, "run.output").unwrap_or_else(|| format!("runs/{CHATBOT}"));
        chat(&shell, &command, Path::new(&output), &sets)?;
    }
    Ok(())
}

/// Whether `flametune align` runs a recipe.
fn is_alignment(recipe: &str) -> bool {
    ALIGNMENT.contains(&recipe)
}

/// Builds the command and returns its path.
fn build(shell: &Shell, tiny: bool) -> Result<String> {
    let selection: &[&str] = if tiny {
        // The build of the tests, which is at hand where things are checked: without a test among
        // the targets, dependencies would have other features.
        &["--workspace", "--features", FEATURES, "--test", "cli"]
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
    executable(&built).context("cargo named no executable")
}

/// Merges the adapter of the chatbot into its base, and asks the result.
fn chat(shell: &Shell, command: &str, run: &Path, sets: &[String]) -> Result<()> {
    let base = value(sets, "model.path").unwrap_or_else(|| ASSETS[0].to_owned());
    let template = value(sets, "data.chat_template");
    let template: Vec<&str> = template.iter().flat_map(|t| ["--template", t]).collect();
    let template = template.as_slice();
    let (adapter, merged) = (run.join("adapter"), run.join("merged"));
    if merged.exists() {
        fs::remove_dir_all(&merged).with_context(|| merged.display().to_string())?;
    }
    console::heading("merging the adapter into its base");
    cmd!(
        shell,
        "{command} adapter merge {adapter} {merged} --base {base}"
    )
    .quiet()
    .run()
    .context("merging failed")?;
    console::heading("asking the merged model: Who are you?");
    cmd!(
        shell,
        "{command} generate {merged} --chat {template...} --prompt 'Who are you?' --max-tokens 48"
    )
    .quiet()
    .run()
    .context("generating failed")?;
    console::note(&format!(
        "talk to it: flametune generate {} --chat {}",
        merged.display(),
        template.join(" ")
    ));
    Ok(())
}

/// The last value that `key` is set to, without quotes.
fn value(sets: &[String], key: &str) -> Option<String> {
    let of_key = |set: &String| {
        let (name, value) = set.split_once('=')?;
        (name == key).then(|| value.trim_matches('"').to_owned())
    };
    sets.iter().rev().find_map(of_key)
}

/// Fetches model and data; `false`, said aloud, where that cannot be done.
fn fetched(recipe: &str) -> bool {
    let mut assets = match recipe {
        CLASSIFIER => CLASSIFIER_ASSETS.to_vec(),
        _ => ASSETS.to_vec(),
    };
    if WITH_PAIRS.contains(&recipe) {
        assets.push(PAIRS);
    }
    for name in assets {
        if let Err(error) = fetch::by_name(name) {
            console::warning(&format!(
                "{name} could not be fetched: {error:#}\n\
                 A tiny model of the tests is trained instead, on a few short sentences: its loss \
                 falls, and what it says means nothing."
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
    fn the_named_recipes_are_there() {
        let names = names(&workspace::root()).unwrap();
        for name in [DEFAULT, CLASSIFIER, CHATBOT].iter().chain(&ALIGNMENT) {
            assert!(names.contains(&(*name).to_owned()), "{names:?}");
        }
    }

    #[test]
    fn the_last_value_of_a_key_counts() {
        let sets = ["a.b=1", "a.b=\"x y\"", "a.bc=2"].map(str::to_owned);
        assert_eq!(value(&sets, "a.b").as_deref(), Some("x y"));
        assert_eq!(value(&sets, "a"), None);
    }
}
