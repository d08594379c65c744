//! What is wrong with recipes, data and folders, said before anything is trained.

use std::fs;

use crate::train::{Workshop, events};
use crate::{flametune, stderr, stdout};

#[test]
fn a_wrong_key_comes_with_its_line_and_the_nearest_one() {
    let workshop = Workshop::new();
    let recipe = workshop.recipe();
    for (from, to, expected) in [
        (
            "learning_rate",
            "learning_rat",
            ":16: unknown key `learning_rat`; did you mean `learning_rate`?",
        ),
        (
            "lora_alpha",
            "lora_alfa",
            ":5: unknown key `lora_alfa`; did you mean `lora_alpha`?",
        ),
        (
            "[optim]",
            "[optin]",
            "unknown key `optin`; did you mean `optim`?",
        ),
    ] {
        fs::write(workshop.path("recipe.toml"), recipe.replace(from, to)).unwrap();
        let message = stderr(&mut workshop.train(&[]));
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn broken_data_comes_with_its_line() {
    let workshop = Workshop::new();
    for (data, expected) in [
        (
            "{\"instruction\": \"a\", \"output\": \"b\"}\n{\"instruction\": \"a\", \"out\n",
            "data.jsonl:2: ",
        ),
        (
            "{\"instruction\": \"a\", \"output\": \"b\"}\n{\"instruction\": \"c\"}\n",
            "data.jsonl:2: ",
        ),
        ("", "data.jsonl"),
        (
            "{\"chosen\": \"a\", \"rejected\": \"b\", \"prompt\": \"c\"}\n",
            "supervised fine-tuning learns from",
        ),
    ] {
        fs::write(workshop.path("data.jsonl"), data).unwrap();
        let message = stderr(&mut workshop.train(&["data.validation=0"]));
        assert!(
            message.contains(expected) && !message.contains("panicked"),
            "{data}: {message}"
        );
    }
}

#[test]
fn an_over_long_record_is_an_error_unless_the_recipe_says_more() {
    let workshop = Workshop::new();
    let long = format!(
        "{{\"instruction\": \"a\", \"output\": \"{}\"}}\n",
        "word ".repeat(100)
    );
    let data = fs::read_to_string(workshop.path("data.jsonl")).unwrap();
    fs::write(workshop.path("data.jsonl"), long + &data).unwrap();
    let message = stderr(&mut workshop.train(&["data.validation=0"]));
    assert!(
        message.contains("data.jsonl:1: ") && message.contains("128"),
        "{message}"
    );
    for truncation in ["drop", "right"] {
        let set = format!("data.truncation={truncation}");
        let output = workshop.output(truncation);
        let mut command = workshop.train(&[&set, "schedule.max_steps=1", &output]);
        let assert = command.assert().success();
        let text = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
        assert!(text.contains("1 records were too long"), "{text}");
    }
}

#[test]
fn impossible_runs_are_refused_by_name() {
    let workshop = Workshop::new();
    let file = workshop.path("recipe.toml").join("below");
    let unwritable = format!("run.output={}", file.display());
    for (set, expected) in [
        (unwritable.as_str(), "cannot write to run.output"),
        ("data.chat_template=chatmll", "chatmll"),
        (
            "data.max_length=4096",
            "data.max_length is 4096, and the model's context 128 tokens",
        ),
        ("data.max_length=1", "max_length"),
        ("optim.batch_size=0", "batch_size"),
        ("optim.gradient_accumulation_steps=0", "accumulation"),
        ("run.eval_steps=0", "eval_steps must be at least 1, got 0"),
        ("run.keep_checkpoints=0", "keep must be at least 1, got 0"),
        (
            "schedule.warmup={ ratio = 2.0 }",
            "warmup must be between 0 and 1",
        ),
        ("adapter.target_modules=[\"q_prj\"]", "q_prj"),
        (
            "model.path=no-such-model",
            "neither a file or folder nor a fetched model",
        ),
        ("model.device=gpu", "expected cpu, wgpu"),
        ("data.validation=1e-9", "no record is held back"),
        ("quant.kind=nf5", "did you mean `nf4`?"),
        ("quant={ kind = \"nf4\", block_size = 3 }", "block_size"),
    ] {
        let message = stderr(&mut workshop.train(&[set]));
        assert!(
            message.contains(expected) && !message.contains("panicked"),
            "{set}: {message}"
        );
    }
    let message = stderr(flametune().args(["train", "qlora"]));
    assert!(message.contains("lora_sft, qlora_sft"), "{message}");
}

#[test]
fn a_loss_that_is_no_number_names_the_records_and_keeps_what_was_learned() {
    let workshop = Workshop::new();
    let sets = [
        "optim.learning_rate=1e30",
        "optim.max_grad_norm=0",
        "schedule.shape={ type = \"constant\" }",
        "run.sample_prompts=[]",
    ];
    let message = stderr(&mut workshop.train(&sets));
    assert!(
        message.contains("its batch holds ") && message.contains("data.jsonl:"),
        "{message}"
    );
    let checkpoints = fs::read_dir(workshop.path("run/checkpoints")).unwrap();
    assert!(checkpoints.count() > 0);
}

#[cfg(unix)]
#[test]
fn a_disk_that_is_full_leaves_no_half_checkpoint_and_the_run_goes_on_later() {
    let workshop = Workshop::new();
    // Files may have 32 KiB, which the averages of a checkpoint exceed; the signal is ignored, so
    // that writing fails as it does on a full disk.
    let shell = "trap '' XFSZ; ulimit -f 64; exec \"$@\"";
    let mut command = assert_cmd::Command::new("sh");
    command
        .args(["-c", shell, "sh"])
        .arg(assert_cmd::cargo::cargo_bin("flametune"))
        .arg("train")
        .arg(workshop.path("recipe.toml"));
    let message = stderr(&mut command);
    assert!(
        message.contains("checkpoint-4") && message.contains("too large"),
        "{message}"
    );
    assert!(!message.contains("panicked"), "{message}");
    let checkpoints = workshop.path("run/checkpoints");
    assert!(!checkpoints.join("checkpoint-4").exists());
    let mut doctor = flametune();
    let text = stdout(doctor.arg("doctor").arg(workshop.path("run")));
    assert!(text.contains("too large"), "{text}");

    workshop.train(&[]).arg("--resume").assert().success();
    let steps = events(&workshop.path("run"), "step");
    assert_eq!(steps.len(), 12);
}

#[test]
fn an_unknown_template_comes_with_those_there_are() {
    let workshop = Workshop::new();
    let message = stderr(&mut workshop.train(&["data.chat_template=chatmll"]));
    assert!(
        message.contains("chatmll") && message.contains("chatml") && message.contains("llama-3"),
        "{message}"
    );
}

#[test]
fn a_log_that_was_damaged_is_named_and_one_that_is_gone_begins_anew() {
    let workshop = Workshop::new();
    workshop.train(&[]).assert().success();
    let log = workshop.path("run/record.jsonl");
    let text = fs::read_to_string(&log).unwrap();
    fs::write(&log, text.replacen("{\"time\"", "{\"tme\"", 2)).unwrap();
    let message = stderr(workshop.train(&[]).arg("--resume"));
    assert!(message.contains("record.jsonl, line 1: "), "{message}");
    fs::remove_file(&log).unwrap();
    workshop.train(&[]).arg("--resume").assert().success();
    assert_eq!(events(&workshop.path("run"), "started").len(), 1);
}
