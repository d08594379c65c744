use std::fs;
use std::path::Path;

use flametune_testkit::fixture_path;
use tempfile::TempDir;

use crate::{flametune, stderr, stdout};

/// The base of the golden adapters, with a tokenizer.
pub(crate) fn base() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        let from = fixture_path("peft/base_llama").join(file);
        fs::copy(from, folder.path().join(file)).unwrap();
    }
    let tokenizer = fixture_path("tokenizers/bytelevel_bpe.json");
    fs::copy(tokenizer, folder.path().join("tokenizer.json")).unwrap();
    folder
}

/// A copy of a golden adapter, to be written to.
pub(crate) fn golden(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        let from = fixture_path(format!("peft/{name}")).join(file);
        fs::copy(from, folder.path().join(file)).unwrap();
    }
    folder
}

fn adapter(command: &str, arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> assert_cmd::Command {
    let mut all = flametune();
    all.args(["adapter", command])
        .args(arguments.iter().map(|a| a.as_ref()));
    all
}

/// What a model says after a prompt.
pub(crate) fn says(model: &Path) -> String {
    let arguments = [
        "--quiet",
        "--prompt",
        "Hello",
        "--max-tokens",
        "12",
        "--dtype",
        "f32",
    ];
    stdout(flametune().arg("generate").arg(model).args(arguments))
}

#[test]
fn info_shows_configuration_counts_and_passport() {
    let (base, lora) = (base(), golden("lora_qv"));
    let text = stdout(&mut adapter(
        "info",
        &[&lora.path(), &"--base", &base.path()],
    ));
    assert!(text.contains("\"peft_type\": \"LORA\""), "{text}");
    assert!(text.contains("passport: none"), "{text}");
    assert!(text.contains("model.layers.0.self_attn.q_proj"), "{text}");
    let index = flametune_testkit::fixture_json("peft/index.json")["lora_qv"].clone();
    let line = format!(
        "trainable {} of {} parameters",
        index["trainable"], index["total"]
    );
    assert!(text.contains(&line), "{text}");
}

#[test]
fn a_passport_is_written_verified_and_refuses_another_base() {
    let (base, lora) = (base(), golden("lora_qv"));
    let verify = |more: &[&str]| {
        let mut command = adapter("verify", &[&lora.path(), &"--base", &base.path()]);
        command.args(more);
        command
    };
    let bare = verify(&[]).assert().success().get_output().clone();
    assert!(String::from_utf8_lossy(&bare.stderr).contains("warning: the adapter has no passport"));
    let write = [
        "--write-passport",
        "--probe",
        "Hello",
        "--data-digest",
        "abc",
    ];
    assert!(stdout(&mut verify(&write)).contains("passport: written, 1 probes"));
    let text = stdout(&mut verify(&[]));
    assert!(text.contains("all finite, shapes fit the base"), "{text}");
    assert!(
        text.contains("probes: 1, largest difference 0.00e0"),
        "{text}"
    );
    assert!(text.contains("passport: data abc"), "{text}");
    let info = stdout(&mut adapter("info", &[&lora.path()]));
    assert!(info.contains("passport: data abc"), "{info}");
    let generate = |more: &[&str]| {
        let mut command = flametune();
        command
            .arg("generate")
            .arg(base.path())
            .args([
                "--quiet",
                "--prompt",
                "Hello",
                "--max-tokens",
                "2",
                "--adapter",
            ])
            .arg(lora.path())
            .args(more);
        command
    };
    let quiet = generate(&[]).assert().success().get_output().clone();
    assert!(!String::from_utf8_lossy(&quiet.stderr).contains("warning"));
    let quantized = generate(&["--quantize", "nf4"])
        .assert()
        .success()
        .get_output()
        .clone();
    let warned = String::from_utf8_lossy(&quantized.stderr).into_owned();
    assert!(
        warned.contains("warning: quantization: the passport has nothing, here is nf4"),
        "{warned}"
    );
    // One bit of the first weight.
    let weights = base.path().join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&weights, bytes).unwrap();
    let merge = |more: &[&str]| {
        let output = lora.path().join("merged");
        let mut command = adapter("merge", &[&lora.path(), &output, &"--base", &base.path()]);
        command.args(more);
        command
    };
    for command in [&mut verify(&[]), &mut generate(&[]), &mut merge(&[])] {
        let message = stderr(command);
        assert!(
            message.contains("the adapter belongs to another base"),
            "{message}"
        );
    }
    for command in [
        generate(&["--ignore-passport"]),
        merge(&["--ignore-passport"]),
    ] {
        let mut command = command;
        command.assert().success();
    }
}

#[test]
fn verify_names_the_tensor_that_is_not_finite() {
    let (base, lora) = (base(), golden("lora_qv"));
    let weights = lora.path().join("adapter_model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&weights, bytes).unwrap();
    let message = stderr(&mut adapter(
        "verify",
        &[&lora.path(), &"--base", &base.path()],
    ));
    assert!(message.contains("lora_B.weight` holds NaN"), "{message}");
    let message = stderr(&mut adapter("verify", &[&lora.path()]));
    assert!(message.contains("give it with --base MODEL"), "{message}");
}

#[test]
fn merging_writes_a_folder_that_needs_no_adapter() {
    let (base, lora) = (base(), golden("lora"));
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("merged");
    let text = stdout(&mut adapter(
        "merge",
        &[&lora.path(), &output, &"--base", &base.path()],
    ));
    assert!(text.contains("largest error"), "{text}");
    let kl: f64 = text
        .lines()
        .last()
        .unwrap()
        .rsplit(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(kl < 1e-6, "{text}");
    assert!(output.join("tokenizer.json").is_file());
    assert_ne!(says(&output), says(base.path()));
    let message = stderr(&mut adapter(
        "merge",
        &[&lora.path(), &base.path(), &"--base", &base.path()],
    ));
    assert!(message.contains("is that of the base"), "{message}");
    let message = stderr(&mut adapter(
        "merge",
        &[
            &golden("prompt_tuning").path(),
            &folder.path().join("x"),
            &"--base",
            &base.path(),
        ],
    ));
    assert!(message.contains("no change of a weight"), "{message}");
    assert!(!folder.path().join("x").exists());
}

#[test]
fn merging_into_a_quantized_base_measures_and_refuses() {
    let (base, lora) = (base(), golden("lora"));
    let folder = tempfile::tempdir().unwrap();
    let packed = folder.path().join("nf4");
    flametune()
        .arg("quantize")
        .arg(base.path())
        .arg(&packed)
        .assert()
        .success();
    let dense = folder.path().join("dense");
    let text = stdout(&mut adapter(
        "merge",
        &[&lora.path(), &dense, &"--base", &packed],
    ));
    assert!(text.contains("largest error"), "{text}");
    let config = fs::read_to_string(dense.join("config.json")).unwrap();
    assert!(!config.contains("quantization_config"));
    says(&dense);
    let again = folder.path().join("again");
    let requantize = |limit: &str| {
        let mut command = adapter("merge", &[&lora.path(), &again, &"--base", &packed]);
        command.args(["--requantize", "--max-change", limit]);
        command
    };
    let message = stderr(&mut requantize("0.01"));
    assert!(message.contains("the limit is 1.000e-2"), "{message}");
    assert!(!again.exists());
    let text = stdout(&mut requantize("0.5"));
    assert!(text.contains("largest error"), "{text}");
    assert!(text.contains("mean KL of the logits"), "{text}");
    let message = stderr(requantize("0.5").args(["--max-kl", "1e-9"]));
    assert!(
        message.contains("merging would move the logits"),
        "{message}"
    );
    let config = fs::read_to_string(again.join("config.json")).unwrap();
    assert!(config.contains("quantization_config"));
    says(&again);
    let message = stderr(&mut adapter(
        "merge",
        &[
            &lora.path(),
            &again,
            &"--base",
            &base.path(),
            &"--requantize",
        ],
    ));
    assert!(
        message.contains("--requantize needs a quantized base"),
        "{message}"
    );
}

#[test]
fn converting_keeps_everything_but_the_digits() {
    let (base, lora) = (base(), golden("lora_qv"));
    let folder = tempfile::tempdir().unwrap();
    let half = folder.path().join("bf16");
    adapter("convert", &[&lora.path(), &half, &"--dtype", &"bf16"])
        .assert()
        .success();
    let size = |folder: &Path| {
        fs::metadata(folder.join("adapter_model.safetensors"))
            .unwrap()
            .len()
    };
    assert!(size(&half) < size(lora.path()) * 3 / 4);
    adapter("verify", &[&half, &"--base", &base.path()])
        .assert()
        .success();
    let message = stderr(&mut adapter("convert", &[&half, &half, &"--dtype", &"f32"]));
    assert!(message.contains("is that of the adapter"), "{message}");
}

#[test]
fn combining_by_cat_is_the_sum() {
    let base = base();
    let folder = tempfile::tempdir().unwrap();
    let part = |name: &str, weight: &str| {
        format!(
            "{}={weight}",
            fixture_path(format!("peft/arithmetic/{name}")).display()
        )
    };
    let output = folder.path().join("ab");
    let combine = |kind: &str, more: &[&str]| {
        let (a, b) = (part("a", "1"), part("b", "-0.5"));
        let mut command = adapter("combine", &[&a, &b, &"--output", &output]);
        command
            .arg("--base")
            .arg(base.path())
            .args(["--kind", kind])
            .args(more);
        command
    };
    combine("cat", &[]).assert().success();
    let text = stdout(&mut adapter("info", &[&output, &"--base", &base.path()]));
    assert!(text.contains("model.layers.1.self_attn.v_proj"), "{text}");
    let merged = folder.path().join("merged");
    adapter("merge", &[&output, &merged, &"--base", &base.path()])
        .assert()
        .success();
    let message = stderr(&mut combine("ties", &[]));
    assert!(message.contains("density"), "{message}");
    let message = stderr(&mut combine("sum", &[]));
    assert!(message.contains("must be one of linear, cat"), "{message}");
    combine("ties_svd", &["--density", "0.5", "--rank", "3"])
        .assert()
        .success();
    let message = stderr(&mut adapter("combine", &[&"./a=x", &"--output", &output]));
    assert!(message.contains("must be a number, got `x`"), "{message}");
}
