use std::fs;

use flametune_testkit::{asset_path, fixture_path};

use crate::info::row;
use crate::{flametune, stderr, stdout};

#[test]
fn a_written_folder_generates_what_quantizing_on_load_generates() {
    let model = crate::generate::tiny_model();
    let folder = tempfile::tempdir().unwrap();
    for kind in ["nf4", "fp4", "int8_vectorwise"] {
        let output = folder.path().join(kind);
        let quantize = ["--quantize", kind];
        let mut write = flametune();
        write
            .arg("quantize")
            .arg(model.path())
            .arg(&output)
            .args(quantize);
        write.assert().success();
        assert!(output.join("tokenizer.json").is_file());
        let generate = |model: &std::path::Path, more: &[&str]| {
            let arguments = ["--quiet", "--prompt", "Hello", "--max-tokens", "12"];
            stdout(
                flametune()
                    .arg("generate")
                    .arg(model)
                    .args(arguments)
                    .args(more),
            )
        };
        assert_eq!(
            generate(&output, &[]),
            generate(model.path(), &quantize),
            "{kind}"
        );
    }
}

#[test]
fn info_counts_quantized_weights() {
    let table = stdout(
        flametune()
            .arg("info")
            .arg(fixture_path("models_bnb/nf4_double")),
    );
    // 2 · 192 · 64 + 64·64·2 + 64·32·2 + 3·64·128 + 3·64
    assert_eq!(row(&table, "parameters"), "61,632");
    // 36,864 numbers, 576 scales: 18,432 + 576 bytes, and 8 of scales' scales for each of 7 layers
    assert_eq!(
        row(&table, "quantized"),
        "7 layers as nf4 in blocks of 64 with double quantization: \
         4.137 bits a parameter, 18.62 KiB"
    );
    let mut command = flametune();
    command.arg("info").arg(fixture_path("models/llama"));
    let table = stdout(command.args(["--quantize", "nf4"]));
    assert!(
        row(&table, "quantized").starts_with("14 layers as nf4 in blocks of 64: 4.500 bits"),
        "{table}"
    );
}

#[test]
fn impossible_quantizations_say_what_is_possible() {
    let model = fixture_path("models/llama");
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let quantize = |arguments: &[&str]| {
        let mut command = flametune();
        stderr(
            command
                .arg("quantize")
                .arg(&model)
                .arg(&output)
                .args(arguments),
        )
    };
    for (arguments, expected) in [
        (
            &["--quantize", "int8"][..],
            "int8_vectorwise, nf4 and fp4 have",
        ),
        (
            &["--quantize", "nf4", "--block-size", "100"],
            "block_size must be one of",
        ),
        (
            &["--quantize", "int8_vectorwise", "--double-quant"],
            "double_quant needs scales of blocks",
        ),
        (&["--quantize", "q4_0"], "nf4"),
    ] {
        let message = quantize(arguments);
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
    assert!(!output.exists());
    let mut same = flametune();
    let message = stderr(same.arg("quantize").arg(&model).arg(&model));
    assert!(message.contains("is that of the model"), "{message}");

    let mut twice = flametune();
    twice
        .arg("quantize")
        .arg(fixture_path("models_bnb/fp4"))
        .arg(&output);
    let message = stderr(&mut twice);
    assert!(message.contains("is quantized already"), "{message}");
    let mut alone = flametune();
    let message = stderr(alone.arg("info").arg(&model).arg("--double-quant"));
    assert!(
        message.contains("--double-quant needs --quantize"),
        "{message}"
    );
    assert!(fs::read_dir(folder.path()).unwrap().next().is_none());
}

#[test]
fn a_real_model_still_knows_its_capitals_in_four_bits() {
    let name = "SmolLM2-135M-Instruct.Q4_1.gguf";
    let Some(model) = asset_path("smollm2-135m-instruct", name) else {
        return;
    };
    let mut command = flametune();
    command
        .arg("generate")
        .arg(&model)
        .args([
            "--quiet",
            "--prompt",
            "The capital of France is",
            "--max-tokens",
            "6",
        ])
        .args(["--quantize", "nf4", "--double-quant"]);
    assert!(stdout(&mut command).contains("Paris"));
}
