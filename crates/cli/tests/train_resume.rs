//! Runs that are killed or stopped, and go on.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::train::{Workshop, events};
use crate::{flametune, stderr, stdout};

/// Steps that are long enough to be interrupted.
const LONG: [&str; 5] = [
    "schedule.max_steps=24",
    "optim.gradient_accumulation_steps=8",
    "run.save_steps=3",
    "run.eval_steps=6",
    "optim.neftune_noise_alpha=5",
];

/// Starts a run and returns when it has written the checkpoint of `step`.
fn started(workshop: &Workshop, output: &str, step: usize) -> Child {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("flametune"));
    command.arg("train").arg(workshop.path("recipe.toml"));
    let output = workshop.output(output);
    for set in LONG.iter().chain([&output.as_str()]) {
        command.args(["--set", set]);
    }
    command.stderr(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let marker = format!("step {step}: saved");
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    lines
        .find(|line| line.as_ref().unwrap().starts_with(&marker))
        .unwrap()
        .unwrap();
    // Nobody reads the rest: the child must not be stopped by a closed pipe.
    std::thread::spawn(move || lines.count());
    child
}

fn train<'a>(workshop: &'a Workshop, output: &'a str) -> assert_cmd::Command {
    let output = workshop.output(output);
    let mut sets = LONG.to_vec();
    sets.push(&output);
    workshop.train(&sets)
}

#[track_caller]
fn same_files(a: &Path, b: &Path, names: &[&str]) {
    for name in names {
        let read = |run: &Path| fs::read(run.join(name)).unwrap();
        assert!(read(a) == read(b), "{name}");
    }
}

/// Kills a run after its sixth step, goes on, and compares with one that was not killed.
#[track_caller]
fn killed_and_unbroken(workshop: &Workshop, result: &str, weights: &str) {
    train(workshop, "unbroken").assert().success();
    let mut child = started(workshop, "killed", 6);
    child.kill().unwrap();
    child.wait().unwrap();
    let killed = workshop.path("killed");
    assert!(!killed.join(result).exists(), "killed too late");
    train(workshop, "killed").arg("--resume").assert().success();
    assert_eq!(events(&killed, "resumed").len(), 1);
    let steps = events(&killed, "step");
    let steps: Vec<u64> = steps
        .iter()
        .map(|step| step["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, (1..=24).collect::<Vec<_>>());
    let evals = events(&killed, "eval");
    let evals: Vec<u64> = evals
        .iter()
        .map(|eval| eval["step"].as_u64().unwrap())
        .collect();
    assert_eq!(evals, [0, 6, 12, 18, 24]);
    let result = format!("{result}/{weights}");
    same_files(
        &workshop.path("unbroken"),
        &killed,
        &[
            &result,
            "checkpoints/checkpoint-24/optimizer.safetensors",
            "checkpoints/checkpoint-24/trainer_state.json",
        ],
    );
}

#[test]
fn a_killed_run_goes_on_as_the_unbroken_one() {
    let workshop = Workshop::new();
    killed_and_unbroken(&workshop, "adapter", "adapter_model.safetensors");
}

#[test]
fn a_killed_run_of_an_encoder_goes_on_as_the_unbroken_one() {
    let workshop = Workshop::new();
    workshop.write_recipe("[adapter]\npeft_type = \"P_TUNING\"\nnum_virtual_tokens = 4\n");
    killed_and_unbroken(&workshop, "adapter", "adapter_model.safetensors");
}

#[test]
fn a_killed_run_that_hands_out_ranks_goes_on_as_the_unbroken_one() {
    let workshop = Workshop::new();
    workshop.write_recipe(
        "[adapter]\npeft_type = \"ADALORA\"\ninit_r = 6\ntarget_r = 3\ntinit = 2\ntfinal = 4\n\
         deltaT = 2\nlora_dropout = 0.1\ntarget_modules = \"all-linear\"\n",
    );
    killed_and_unbroken(&workshop, "adapter", "adapter_model.safetensors");
    same_files(
        &workshop.path("unbroken"),
        &workshop.path("killed"),
        &[
            "adapter/adapter_config.json",
            "checkpoints/checkpoint-24/ranks.safetensors",
        ],
    );
}

#[test]
fn a_killed_run_on_a_base_that_loftq_quantized_goes_on_as_the_unbroken_one() {
    let workshop = Workshop::new();
    workshop.write_recipe(
        "[adapter]\nr = 4\nlora_alpha = 8\ntarget_modules = \"all-linear\"\n\
         init_lora_weights = \"loftq\"\nloftq_config = { loftq_bits = 4, loftq_iter = 2 }\n",
    );
    killed_and_unbroken(&workshop, "adapter", "adapter_model.safetensors");
}

#[test]
fn a_killed_run_of_the_whole_model_goes_on_as_the_unbroken_one() {
    let workshop = Workshop::new();
    workshop.write_recipe("");
    killed_and_unbroken(&workshop, "model", "model.safetensors");
    assert!(workshop.path("killed/model/tokenizer.json").is_file());
}

#[test]
fn a_killed_run_of_weights_in_16_bits_goes_on_as_the_unbroken_one() {
    let workshop = Workshop::new();
    workshop.write_recipe("dtype = \"bf16\"\n");
    let recipe = workshop.recipe();
    let optim = "[optim]\nstochastic_rounding = true\n";
    fs::write(
        workshop.path("recipe.toml"),
        recipe.replace("[optim]\n", optim),
    )
    .unwrap();
    killed_and_unbroken(&workshop, "model", "model.safetensors");
}

#[test]
fn a_killed_run_with_paged_states_in_eight_bits_goes_on_as_the_unbroken_one() {
    let workshop = Workshop::new();
    workshop.write_recipe("");
    let recipe = workshop.recipe();
    let optim = "[optim]
rule = { type = \"adamw\", eight_bit = true }
paged_states = true
";
    fs::write(
        workshop.path("recipe.toml"),
        recipe.replace("[optim]\n", optim),
    )
    .unwrap();
    killed_and_unbroken(&workshop, "model", "model.safetensors");
}

#[test]
fn a_killed_run_that_stays_near_its_base_goes_on_as_the_unbroken_one() {
    let workshop = Workshop::new();
    let recipe = workshop.recipe();
    let optim = "[optim]
loraplus_lr_ratio = 8
kl_coef = 0.1
paged_states = true
recompute = true
";
    fs::write(
        workshop.path("recipe.toml"),
        recipe.replace("[optim]\n", optim),
    )
    .unwrap();
    killed_and_unbroken(&workshop, "adapter", "adapter_model.safetensors");
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_saves_and_goes_on_as_the_unbroken_one() {
    let workshop = Workshop::new();
    train(&workshop, "unbroken").assert().success();

    let mut child = started(&workshop, "stopped", 3);
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    assert!(child.wait().unwrap().success());
    let stopped = workshop.path("stopped");
    let end = &events(&stopped, "finished")[0];
    assert_eq!(end["status"], "interrupted");
    let step = end["step"].as_u64().unwrap();
    assert!(
        stopped
            .join(format!("checkpoints/checkpoint-{step}"))
            .is_dir()
    );
    train(&workshop, "stopped")
        .arg("--resume")
        .assert()
        .success();
    same_files(
        &workshop.path("unbroken"),
        &stopped,
        &["adapter/adapter_model.safetensors"],
    );
}

#[test]
fn a_run_that_is_over_has_nothing_left_to_do() {
    let workshop = Workshop::new();
    workshop.train(&[]).assert().success();
    let result = workshop.path("run/adapter/adapter_model.safetensors");
    let before = fs::read(&result).unwrap();
    stdout(workshop.train(&[]).arg("--resume"));
    assert!(before == fs::read(&result).unwrap());
    // Nothing is measured or asked twice.
    let run = workshop.path("run");
    let of = |kind: &str| events(&run, kind).len();
    assert_eq!((of("step"), of("eval"), of("sample")), (12, 4, 2));
}

#[test]
fn a_changed_run_does_not_go_on() {
    let workshop = Workshop::new();
    let message = stderr(workshop.train(&[]).arg("--resume"));
    assert!(message.contains("holds no run to go on with"), "{message}");
    workshop.train(&[]).assert().success();
    let message = stderr(&mut workshop.train(&[]));
    assert!(message.contains("holds a run already"), "{message}");

    let changed = ["optim.learning_rate=0.5", "adapter.r=8"];
    for (set, expected) in changed.iter().zip([
        "`optim.learning_rate` was 0.01 when the run began and is 0.5 now",
        "`adapter.r` was 4 when the run began and is 8 now",
    ]) {
        let message = stderr(workshop.train(&[set]).arg("--resume"));
        assert!(message.contains(expected), "{message}");
    }

    // One bit of the base.
    let weights = workshop.path("model/model.safetensors");
    let before = fs::read(&weights).unwrap();
    let mut other = before.clone();
    *other.last_mut().unwrap() ^= 1;
    fs::write(&weights, other).unwrap();
    let adapter = workshop.path("run/adapter");
    let mut combine = flametune();
    combine.args(["adapter", "combine"]).arg(&adapter);
    combine
        .arg("--output")
        .arg(workshop.path("combined"))
        .arg("--base")
        .arg(workshop.path("model"));
    let mut eval = flametune();
    eval.arg("eval").arg(workshop.path("model"));
    eval.arg("--adapter").arg(&adapter);
    eval.args(["--tasks", "arc_easy", "--data"])
        .arg(workshop.path("."));
    for message in [
        stderr(workshop.train(&[]).arg("--resume")),
        stderr(&mut combine),
        stderr(&mut eval),
    ] {
        assert!(
            message.contains("the adapter belongs to another base"),
            "{message}"
        );
    }
    fs::write(&weights, before).unwrap();

    let data = fs::read_to_string(workshop.path("data.jsonl")).unwrap();
    fs::write(workshop.path("data.jsonl"), data.replace("three", "seven")).unwrap();
    let message = stderr(workshop.train(&[]).arg("--resume"));
    assert!(message.contains("the data is not what it was"), "{message}");
    workshop.train(&[]).arg("--overwrite").assert().success();
}
