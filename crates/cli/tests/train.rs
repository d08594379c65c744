//! Whole runs on a tiny model.

use std::fs;
use std::path::{Path, PathBuf};

use flametune_testkit::fixture_path;
use serde_json::Value;
use tempfile::TempDir;

use crate::{flametune, stderr, stdout};

/// A folder with a tiny model, a few conversations, and a recipe for them.
pub(crate) struct Workshop {
    pub(crate) folder: TempDir,
}

/// What differs from `LORA` is written into the recipe in its place.
const LORA: &str =
    "[adapter]\nr = 4\nlora_alpha = 8\nlora_dropout = 0.1\ntarget_modules = \"all-linear\"\n";

impl Workshop {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model");
        fs::create_dir(&model).unwrap();
        for (from, to) in [
            ("training/base/config.json", "config.json"),
            ("training/base/model.safetensors", "model.safetensors"),
            ("chat/tokenizer/tokenizer.json", "tokenizer.json"),
            (
                "chat/tokenizer/tokenizer_config.json",
                "tokenizer_config.json",
            ),
        ] {
            fs::copy(fixture_path(from), model.join(to)).unwrap();
        }
        let workshop = Self { folder };
        let lines: String = (0..40)
            .map(|n| {
                format!("{{\"instruction\": \"Count {n}\", \"output\": \"one two three four\"}}\n")
            })
            .collect();
        fs::write(workshop.path("data.jsonl"), lines).unwrap();
        workshop.write_recipe(LORA);
        workshop
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write_recipe(&self, adapter: &str) {
        let recipe = format!(
            "[model]
path = {model:?}
{adapter}
[data]
sources = [{{ paths = [{data:?}] }}]
validation = 0.2
max_length = 128
chat_template = \"chatml\"

[optim]
learning_rate = 0.01
batch_size = 4
gradient_accumulation_steps = 2

[schedule]
max_steps = 12

[run]
output = {output:?}
eval_steps = 4
save_steps = 4
sample_prompts = [\"Count 7\"]
sample_tokens = 8
",
            model = self.path("model"),
            data = self.path("data.jsonl"),
            output = self.path("run"),
        );
        fs::write(self.path("recipe.toml"), recipe).unwrap();
    }

    pub(crate) fn recipe(&self) -> String {
        fs::read_to_string(self.path("recipe.toml")).unwrap()
    }

    /// The command on the recipe, with overrides.
    pub(crate) fn train(&self, sets: &[&str]) -> assert_cmd::Command {
        let mut command = flametune();
        command.arg("train").arg(self.path("recipe.toml"));
        for set in sets {
            command.args(["--set", set]);
        }
        command
    }

    /// `run.output=NAME` in the workshop.
    pub(crate) fn output(&self, name: &str) -> String {
        format!("run.output={}", self.path(name).display())
    }
}

/// The events of a kind in a run's log.
pub(crate) fn events(run: &Path, kind: &str) -> Vec<Value> {
    let log = fs::read_to_string(run.join("record.jsonl")).unwrap();
    log.lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|event| event["event"] == kind)
        .collect()
}

fn losses(run: &Path, kind: &str) -> Vec<f64> {
    let events = events(run, kind);
    events
        .iter()
        .map(|event| event["loss"].as_f64().unwrap())
        .collect()
}

fn answer(model: &Path, more: &[&str]) -> String {
    let mut command = flametune();
    command
        .arg("generate")
        .arg(model)
        .args(["--quiet", "--chat", "--template", "chatml"]);
    stdout(
        command
            .args(["--prompt", "Count 7", "--max-tokens", "8"])
            .args(more),
    )
}

#[track_caller]
fn learned(run: &Path) {
    let (evals, steps) = (losses(run, "eval"), losses(run, "step"));
    assert_eq!(
        (steps.len(), evals.len()),
        (12, 4),
        "before, at 4 and 8, after"
    );
    let (first, last) = (evals[0], evals[3]);
    // Twelve steps of the slowest recipe take off a twelfth.
    assert!(last < 0.95 * first, "{evals:?}");
    assert!(steps[11] < 0.95 * steps[0], "{steps:?}");
}

#[test]
fn a_run_learns_and_its_adapter_can_be_used_and_merged() {
    let workshop = Workshop::new();
    let text = stdout(&mut workshop.train(&[]));
    let run = workshop.path("run");
    learned(&run);
    assert!(
        text.contains("validation loss: ") && text.contains("after step 12"),
        "{text}"
    );
    assert!(text.contains("report.html"), "{text}");
    assert!(run.join("report.html").is_file());
    assert_eq!(events(&run, "sample").len(), 2);
    assert_eq!(events(&run, "finished")[0]["status"], "finished");
    let checkpoints = fs::read_dir(run.join("checkpoints")).unwrap();
    assert_eq!(checkpoints.count(), 2, "the newest two");

    let (model, adapter) = (workshop.path("model"), run.join("adapter"));
    let json = |path: PathBuf| -> Value {
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    };
    let passport = json(adapter.join("flametune_passport.json"));
    assert_eq!(passport["data_digest"], json(run.join("run.json"))["data"]);
    let mut verify = flametune();
    verify.args(["adapter", "verify"]).arg(&adapter);
    let verified = stdout(verify.arg("--base").arg(&model));
    assert!(
        verified.contains("the base is the one it was made for"),
        "{verified}"
    );
    let adapter_flag = ["--adapter", adapter.to_str().unwrap()];
    let adapted = answer(&model, &adapter_flag);
    assert_ne!(adapted, answer(&model, &[]));
    let merged = workshop.path("merged");
    flametune()
        .args(["adapter", "merge"])
        .arg(&adapter)
        .arg(&merged)
        .arg("--base")
        .arg(&model)
        .assert()
        .success();
    assert_eq!(answer(&merged, &[]), adapted);
}

#[test]
fn every_way_of_training_learns() {
    let nf4 = [
        "quant.kind=nf4",
        "quant.double_quant=true",
        "quant.block_size=32",
    ];
    let reconstructed = [&nf4[..], &["quant.reconstruct=true"]].concat();
    for (name, sets) in [
        ("qlora", &nf4[..]),
        ("qera", &reconstructed),
        ("packed", &["data.packing=true", "optim.batch_size=2"]),
        ("dora", &["adapter.use_dora=true"]),
        ("eva", &["adapter.init_lora_weights=eva"]),
        (
            "adalora",
            &[
                "adapter.peft_type=ADALORA",
                "adapter.init_r=4",
                "adapter.target_r=2",
                "adapter.tinit=2",
                "adapter.tfinal=3",
                "adapter.orth_reg_weight=0.1",
                "optim.learning_rate=0.05",
            ],
        ),
        ("bf16", &["model.dtype=bf16"]),
        ("recompute", &["optim.recompute=true"]),
        (
            "lora_plus",
            &["optim.loraplus_lr_ratio=4", "optim.learning_rate=0.005"],
        ),
        (
            "lion8",
            &[
                "optim.rule={ type = \"lion\", eight_bit = true }",
                "optim.learning_rate=0.002",
            ],
        ),
    ] {
        let workshop = Workshop::new();
        workshop.train(sets).assert().success();
        println!("{name}");
        learned(&workshop.path("run"));
    }
}

#[test]
fn ranks_are_handed_out_over_the_steps_of_the_run() {
    let workshop = Workshop::new();
    workshop.write_recipe(
        "[adapter]\npeft_type = \"ADALORA\"\ninit_r = 4\ntarget_r = 2\ntinit = 2\ntfinal = 3\n\
         target_modules = \"all-linear\"\n",
    );
    workshop.train(&[]).assert().success();
    let run = workshop.path("run");
    let config = fs::read_to_string(run.join("adapter/adapter_config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["total_step"], 12);
    let pattern = config["rank_pattern"].as_object().unwrap();
    let kept = pattern.values().flat_map(|kept| kept.as_array().unwrap());
    let kept = kept.filter(|kept| kept.as_bool() == Some(true)).count();
    assert_eq!(kept, 2 * pattern.len());
    let steps = events(&run, "step");
    let layers = f64::from(u32::try_from(pattern.len()).unwrap());
    let ranks: Vec<f64> = steps
        .iter()
        .map(|step| step["metrics"]["ranks"].as_f64().unwrap() / layers)
        .collect();
    assert_eq!((ranks[0], ranks[11]), (4.0, 2.0), "{ranks:?}");

    let error = stderr(workshop.train(&["adapter.total_step=7"]).arg("--overwrite"));
    assert!(
        error.contains("total_step is 7, and the run takes 12 steps"),
        "{error}"
    );
}

#[test]
fn training_data_is_cleaned_as_the_recipe_says() {
    let workshop = Workshop::new();
    let data = workshop.path("data.jsonl");
    let lines = fs::read_to_string(&data).unwrap();
    let first = lines.lines().next().unwrap();
    fs::write(&data, format!("{lines}{first}\n{first}\n")).unwrap();
    let sets = [
        "data.curation={ exact_duplicates = true }",
        "data.augmentation={ rate = 0.5, rewordings = [\"task-label\"] }",
        "data.validation=0.0",
        "schedule.max_steps=2",
    ];
    let run = workshop.train(&sets).assert().success();
    let said = String::from_utf8_lossy(&run.get_output().stderr).into_owned();
    assert!(said.contains("2 repeat an earlier one"), "{said}");
    let output = workshop.output("other");
    let impossible = "data.augmentation={ rate = 2.0, rewordings = [\"please\"] }";
    let error = stderr(&mut workshop.train(&[output.as_str(), impossible]));
    assert!(error.contains("rate"), "{error}");
}

#[test]
fn full_fine_tuning_writes_a_model() {
    let workshop = Workshop::new();
    workshop.write_recipe("");
    let run = workshop.path("run");
    workshop
        .train(&["optim.learning_rate=0.003"])
        .assert()
        .success();
    learned(&run);
    let model = workshop.path("model");
    assert_ne!(answer(&run.join("model"), &[]), answer(&model, &[]));

    let sets = [
        "optim.learning_rate=0.003",
        "model.dtype=bf16",
        "optim.stochastic_rounding=true",
    ];
    let output = workshop.output("in16");
    let mut command = workshop.train(&sets);
    command.args(["--set", &output]).assert().success();
    learned(&workshop.path("in16"));
    let stored = fs::read(workshop.path("in16/model/model.safetensors")).unwrap();
    let header = String::from_utf8_lossy(&stored[..stored.len().min(4096)]).into_owned();
    assert!(header.contains("\"BF16\""), "{header}");
}

#[test]
fn the_best_weights_can_be_the_result() {
    let workshop = Workshop::new();
    // A learning rate that ruins the model once it has warmed up.
    let sets = [
        "run.result=best",
        "run.early_stopping={ patience = 2 }",
        "run.eval_steps=1",
        "run.keep_checkpoints=1",
        "schedule.max_steps=40",
        "schedule.shape={ type = \"constant_with_warmup\" }",
        "schedule.warmup={ steps = 20 }",
        "optim.learning_rate=3.0",
    ];
    let text = stdout(&mut workshop.train(&sets));
    let run = workshop.path("run");
    let evals = losses(&run, "eval");
    let best = evals[1..].iter().copied().fold(f64::INFINITY, f64::min);
    assert!(text.contains("stopped early"), "{text}");
    assert!(text.contains(&format!("best: {best:.4}")), "{text}");
    assert!(*evals.last().unwrap() > best);

    let step = 1 + evals[1..].iter().position(|&loss| loss == best).unwrap();
    let saved = run.join(format!(
        "checkpoints/checkpoint-{step}/adapter_model.safetensors"
    ));
    let result = run.join("adapter/adapter_model.safetensors");
    assert!(fs::read(saved).unwrap() == fs::read(result).unwrap());
    assert!(!run.join("adapter/optimizer.safetensors").exists());
}

#[test]
fn data_check_shows_what_is_trained() {
    let workshop = Workshop::new();
    let mut command = flametune();
    command
        .args(["data", "check"])
        .arg(workshop.path("recipe.toml"));
    let text = stdout(command.args(["--previews", "1"]));
    assert!(text.contains("format: alpaca"), "{text}");
    assert!(text.contains("⟦one two three four<|im_end|>"), "{text}");

    fs::write(
        workshop.path("bad.jsonl"),
        "{\"instruction\": \"x\", \"output\": \"y\"}\n{]\n",
    )
    .unwrap();
    let mut command = flametune();
    command
        .args(["data", "check"])
        .arg(workshop.path("bad.jsonl"));
    command.arg("--model").arg(workshop.path("model"));
    command.args(["--set", "data.chat_template=chatml"]);
    let text = stdout(&mut command);
    assert!(text.contains("bad.jsonl:2"), "{text}");
    command.args(["--set", "data.on_invalid=strict"]);
    let said = stderr(&mut command);
    assert!(
        said.contains("bad.jsonl:2: expected a JSON object"),
        "{said}"
    );
}

#[test]
fn a_recipe_is_shown_with_its_defaults() {
    let text = stdout(flametune().args(["train", "qlora_sft", "--show"]));
    assert!(
        text.contains("block_size = 64") && text.contains("learning_rate = 0.0002"),
        "{text}"
    );
}
