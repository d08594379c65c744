//! Every recipe of alignment on a tiny model.

use std::fs;
use std::path::{Path, PathBuf};

use flametune_testkit::fixture_path;
use serde_json::Value;
use tempfile::TempDir;

use crate::{flametune, stderr, stdout};

struct Workshop {
    folder: TempDir,
}

impl Workshop {
    fn new() -> Self {
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
        let pairs: String = (0..24)
            .map(|n| {
                format!(
                    "{{\"prompt\": \"Is {n} so?\", \"chosen\": \"yes yes\", \"rejected\": \"no\"}}\n"
                )
            })
            .collect();
        fs::write(workshop.path("pairs.jsonl"), pairs).unwrap();
        let lines: String = (0..24)
            .map(|n| format!("{{\"instruction\": \"Count {n}\", \"output\": \"one two\"}}\n"))
            .collect();
        fs::write(workshop.path("sft.jsonl"), lines).unwrap();
        workshop
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The command on a recipe, with the tiny model and data in place of the real ones.
    fn align(&self, recipe: &str, output: &str, arguments: &[&str]) -> assert_cmd::Command {
        let mut command = flametune();
        command.args(["align", recipe]).args(arguments);
        let online = ["ppo", "grpo"].contains(&recipe);
        let data = self.path(if online { "sft.jsonl" } else { "pairs.jsonl" });
        let mut sets = vec![
            format!("model.path={}", self.path("model").display()),
            "model.dtype=f32".to_owned(),
            "data.chat_template=chatml".to_owned(),
            format!("data.sources=[{{ paths = [{data:?}] }}]"),
            "data.max_length=120".to_owned(),
            "adapter.r=2".to_owned(),
            format!("run.output={}", self.path(output).display()),
        ];
        if recipe == "dpo" {
            let text = self.path("sft.jsonl");
            sets.push(format!("evaluation.pairs=[{{ paths = [{data:?}] }}]"));
            sets.push(format!("evaluation.text=[{{ paths = [{text:?}] }}]"));
        }
        if recipe == "rlhf" {
            let data = self.path("sft.jsonl");
            sets.push(format!("sft.own.data.sources=[{{ paths = [{data:?}] }}]"));
        }
        for set in sets {
            command.args(["--set", &set]);
        }
        command
    }
}

fn steps(run: &Path) -> Vec<Value> {
    let log = fs::read_to_string(run.join("record.jsonl")).unwrap();
    log.lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|event| event["event"] == "step")
        .collect()
}

#[test]
fn every_recipe_runs_in_its_small_form() {
    let workshop = Workshop::new();
    for (recipe, part) in [
        ("reward_model", "accuracy"),
        ("dpo", "rewards/margins"),
        ("ipo", "rewards/margins"),
        ("kto", "kl"),
        ("orpo", "log_odds_ratio"),
        ("simpo", "rewards/margins"),
        ("ppo", "objective/kl"),
        ("grpo", "rewards/distinct/mean"),
    ] {
        stdout(&mut workshop.align(recipe, recipe, &["--smoke"]));
        let run = workshop.path(&format!("{recipe}-smoke"));
        assert!(
            run.join("adapter/adapter_model.safetensors").exists(),
            "{recipe}"
        );
        let steps = steps(&run);
        assert_eq!(steps.len(), 2, "{recipe}");
        let found = steps.iter().find(|step| step["metrics"][part].is_number());
        assert!(found.is_some(), "{recipe}: {:?}", steps[0]);
    }
    let head = workshop.path("reward_model-smoke/adapter/value_head.safetensors");
    assert!(head.exists());
}

#[test]
fn rlhf_is_three_stages_on_one_base() {
    let workshop = Workshop::new();
    stdout(&mut workshop.align("rlhf", "rlhf", &["--smoke"]));
    let run = workshop.path("rlhf-smoke");
    for stage in ["sft", "reward_model", "online"] {
        assert_eq!(steps(&run.join(stage)).len(), 2, "{stage}");
    }
    let first = &steps(&run.join("online"))[0];
    assert!(
        first["metrics"]["rewards/model/mean"].is_number(),
        "{first}"
    );
    // The fine-tuned adapter is where the policy begins, and its reference.
    assert!(first["metrics"]["objective/kl"].as_f64().unwrap().abs() < 1e-3);
}

#[test]
fn a_stopped_run_goes_on() {
    let workshop = Workshop::new();
    let sets = ["--set", "schedule.max_steps=4", "--set", "run.save_steps=2"];
    stdout(&mut workshop.align("dpo", "whole", &sets));
    stdout(&mut workshop.align("dpo", "broken", &sets));
    // As if it had been killed after its second step.
    let broken = workshop.path("broken");
    fs::remove_dir_all(broken.join("adapter")).unwrap();
    fs::remove_dir_all(broken.join("checkpoints/checkpoint-4")).unwrap();
    stdout(&mut workshop.align("dpo", "broken", &[&sets[..], &["--resume"]].concat()));
    let file = "adapter/adapter_model.safetensors";
    let bytes = [workshop.path("whole"), broken].map(|run| fs::read(run.join(file)).unwrap());
    assert!(bytes[0] == bytes[1], "the bytes of the adapter");
}

#[test]
fn mistakes_are_explained() {
    let workshop = Workshop::new();
    // What is measured afterwards is looked for before anything is trained.
    let nowhere = "evaluation={ pairs = [{ paths = [\"nowhere.jsonl\"] }] }";
    let error = stderr(&mut workshop.align("ipo", "ipo", &["--set", nowhere]));
    assert!(
        error.contains("evaluation.pairs") && error.contains("nowhere.jsonl"),
        "{error}"
    );
    assert!(!error.contains("step 1 of"), "{error}");
    let said = |arguments: &[&str]| stderr(&mut workshop.align("dpo", "out", arguments));
    let error = said(&["--set", "preference.los=1"]);
    assert!(error.contains("did you mean `loss`?"), "{error}");
    let error = said(&["--set", "preference.loss.beta=-1"]);
    assert!(
        error.contains("beta must be finite and above 0, got -1"),
        "{error}"
    );
    let error = said(&["--set", "data.curation={}"]);
    assert!(
        error.contains("data.curation is not for alignment"),
        "{error}"
    );
    let error = said(&["--resume"]);
    assert!(error.contains("holds no run to go on with"), "{error}");
    let error = stderr(flametune().args(["align", "dppo"]));
    assert!(error.contains("there is no recipe dppo"), "{error}");
    fs::write(
        workshop.path("pairs.jsonl"),
        "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"\"}\n",
    )
    .unwrap();
    let error = said(&["--set", "data.validation=0"]);
    assert!(
        error.contains("pairs.jsonl:1: expected text in \"rejected\""),
        "{error}"
    );
}
