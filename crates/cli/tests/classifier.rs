//! A classifier from its recipe to its answers.

use std::fs;
use std::path::PathBuf;

use flametune_testkit::fixture_path;
use tempfile::TempDir;

use crate::train::events;
use crate::{flametune, stderr, stdout};

/// A folder with a tiny encoder, texts of three classes, and a recipe for them.
struct Workshop {
    folder: TempDir,
}

impl Workshop {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let workshop = Self { folder };
        let model = workshop.path("model");
        fs::create_dir(&model).unwrap();
        for (from, to) in [
            ("models/bert_cls/config.json", "config.json"),
            ("models/bert_cls/model.safetensors", "model.safetensors"),
            ("tokenizers/bytelevel_bpe.json", "tokenizer.json"),
        ] {
            fs::copy(fixture_path(from), model.join(to)).unwrap();
        }
        let lines: String = (0..120)
            .map(|n| match n % 4 {
                0 => format!("{{\"text\": \"why and how {n}?\", \"label\": \"question\"}}\n"),
                1 => format!("{{\"text\": \"hello there {n}\", \"label\": \"greeting\"}}\n"),
                _ => format!("{{\"text\": \"one two three {n}\", \"label\": \"count\"}}\n"),
            })
            .collect();
        fs::write(workshop.path("data.jsonl"), lines).unwrap();
        let recipe = format!(
            "[model]
path = {model:?}
[classifier]
classes = [\"count\", \"question\", \"greeting\"]
[adapter]
r = 4
target_modules = [\"query\", \"value\", \"dense\"]
[data]
sources = [{{ paths = [{data:?}] }}]
validation = 0.25
max_length = 64
[optim]
learning_rate = 0.01
batch_size = 8
[schedule]
max_steps = 20
[run]
output = {output:?}
eval_steps = 10
",
            data = workshop.path("data.jsonl"),
            output = workshop.path("run"),
        );
        fs::write(workshop.path("recipe.toml"), recipe).unwrap();
        workshop
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn train(&self, sets: &[&str]) -> assert_cmd::Command {
        let mut command = flametune();
        command.arg("train").arg(self.path("recipe.toml"));
        for set in sets {
            command.args(["--set", set]);
        }
        command
    }
}

#[test]
fn a_classifier_beats_the_most_frequent_class_and_answers() {
    let workshop = Workshop::new();
    let text = stdout(&mut workshop.train(&[]));
    let run = workshop.path("run");
    let evals = events(&run, "eval");
    assert_eq!(evals.len(), 4, "before, at 10, after, and the classes");
    let of = |name: &str| evals[3]["metrics"][name].as_f64().unwrap();
    assert!(of("accuracy") > of("majority") + 0.2, "{text}");
    assert!(of("macro_f1") > 0.9, "{text}");
    assert_eq!(
        evals[2]["metrics"]["accuracy"],
        evals[3]["metrics"]["accuracy"]
    );
    assert!(
        text.contains("- accuracy: ") && text.contains("count"),
        "{text}"
    );

    let mut command = flametune();
    command.arg("classify").arg(&run);
    let said = stdout(command.args(["why and how 5?", "one two three 6"]));
    let classes: Vec<&str> = said
        .lines()
        .map(|line| line.split('\t').next().unwrap())
        .collect();
    assert_eq!(classes, ["question", "count"], "{said}");

    // PEFT finds what it needs to load the adapter with its head.
    let config = fs::read_to_string(run.join("adapter/adapter_config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["task_type"], "SEQ_CLS");
    assert_eq!(config["modules_to_save"][0], "classifier");
}

#[test]
fn a_stopped_classifier_goes_on_as_the_unbroken_one() {
    let workshop = Workshop::new();
    let save = "run.save_steps=10";
    workshop.train(&[save]).assert().success();
    let result = workshop.path("run/adapter/adapter_model.safetensors");
    let unbroken = fs::read(&result).unwrap();
    // As a run that was killed after its tenth step leaves its folder.
    fs::remove_dir_all(workshop.path("run/adapter")).unwrap();
    fs::remove_dir_all(workshop.path("run/checkpoints/checkpoint-20")).unwrap();
    workshop.train(&[save]).arg("--resume").assert().success();
    assert!(unbroken == fs::read(&result).unwrap());
    let steps = events(&workshop.path("run"), "step");
    assert_eq!(steps.len(), 20);
}

#[test]
fn the_best_weights_can_be_the_result() {
    let workshop = Workshop::new();
    let sets = [
        "run.result=best",
        "run.eval_steps=2",
        "run.early_stopping={ patience = 2 }",
        "optim.learning_rate=0.2",
        "schedule.max_steps=40",
    ];
    workshop.train(&sets).assert().success();
    assert!(
        workshop
            .path("run/adapter/adapter_model.safetensors")
            .is_file()
    );
}

#[test]
fn what_cannot_be_is_said_by_name() {
    let workshop = Workshop::new();
    for (set, expected) in [
        (
            "classifier.classes=[\"a\"]",
            "must name at least 2 classes, got 1",
        ),
        (
            "classifier.classes=[\"count\", \"b\"]",
            "expected a class in \"label\" (count, b), got \"question\"",
        ),
        (
            "classifier.classes=[\"count\", \"question\", \"greeting\", \"d\"]",
            "classes must be 3, as many as the head of the model has, got 4",
        ),
        ("data.packing=true", "data.packing is of language models"),
        (
            "run.sample_prompts=[\"x\"]",
            "run.sample_prompts is of language models",
        ),
        (
            "data.max_length=4096",
            "data.max_length is 4096, and the model's context 128 tokens",
        ),
        ("adapter.target_modules=[\"q_proj\"]", "q_proj"),
        ("data.sources.0.format=text", "texts with classes"),
    ] {
        let message = stderr(workshop.train(&[set]).arg("--overwrite"));
        assert!(
            message.contains(expected) && !message.contains("panicked"),
            "{set}: {message}"
        );
    }
}
