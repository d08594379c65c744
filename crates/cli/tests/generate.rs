use std::fs;
use std::path::Path;

use flametune_testkit::{fixture_json, fixture_path};
use tempfile::TempDir;

use crate::{flametune, stderr, stdout};

/// A tiny model with a tokenizer of its own size: the golden llama and the byte-level fixture.
pub(crate) fn tiny_model() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let weights = fixture_path("models/llama/model.safetensors");
    fs::copy(weights, folder.path().join("model.safetensors")).unwrap();
    // Room for a dialogue in a tokenizer of single bytes.
    let mut config = fixture_json("models/llama/config.json");
    config["max_position_embeddings"] = 256.into();
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let tokenizer = fixture_path("tokenizers/bytelevel_bpe.json");
    fs::copy(tokenizer, folder.path().join("tokenizer.json")).unwrap();
    folder
}

fn generate(model: &Path, arguments: &[&str]) -> assert_cmd::Command {
    let mut command = flametune();
    command
        .arg("generate")
        .arg(model)
        .arg("--quiet")
        .args(arguments);
    if !arguments.contains(&"--max-tokens") {
        command.args(["--max-tokens", "12"]);
    }
    command
}

#[test]
fn a_batch_gives_each_prompt_what_it_gets_alone() {
    let model = tiny_model();
    let prompts = ["Hello", "A rather longer prompt than the others", "x"];
    let alone = prompts.map(|prompt| stdout(&mut generate(model.path(), &["--prompt", prompt])));
    let batch = stdout(&mut generate(
        model.path(),
        &["-p", prompts[0], "-p", prompts[1], "-p", prompts[2]],
    ));
    let expected: String = prompts
        .iter()
        .zip(&alone)
        .map(|(prompt, text)| format!("=== {prompt}\n{text}\n"))
        .collect();
    assert_eq!(batch, expected);
}

#[test]
fn seeds_repeat_and_differ() {
    let model = tiny_model();
    let draw = |seed: &str| {
        let arguments = ["-p", "Hello", "--temperature", "1.5", "--seed", seed];
        stdout(&mut generate(model.path(), &arguments))
    };
    assert_eq!(draw("7"), draw("7"));
    assert!((0..4).any(|seed| draw(&seed.to_string()) != draw("7")));
}

#[test]
fn standard_input_is_a_prompt_or_a_dialogue() {
    let model = tiny_model();
    let prompt = stdout(&mut generate(model.path(), &["--prompt", "Hello"]));
    let piped = stdout(generate(model.path(), &[]).write_stdin("Hello\n"));
    assert_eq!(piped, prompt);

    let chat = ["--chat", "--template", "chatml", "--prompt", "Hi"];
    let answer = stdout(&mut generate(model.path(), &chat));
    let dialogue = stdout(generate(model.path(), &chat[..3]).write_stdin("Hi\nand then?\n"));
    assert!(
        dialogue.starts_with(&answer),
        "{dialogue:?} begins with {answer:?}"
    );
    assert!(dialogue.len() > answer.len());
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let model = tiny_model();
    let whole = stdout(&mut generate(model.path(), &["-p", "Hello"]));
    let text: Vec<char> = whole.trim_end_matches('\n').chars().collect();
    let stop: String = text[text.len() / 2..text.len() / 2 + 2].iter().collect();
    let cut = stdout(&mut generate(
        model.path(),
        &["-p", "Hello", "--stop", &stop],
    ));
    let end = whole.find(&stop).unwrap();
    assert_eq!(cut.trim_end_matches('\n'), &whole[..end]);
}

#[test]
fn wrong_flags_name_the_flag_and_what_it_takes() {
    let model = tiny_model();
    for (arguments, expected) in [
        (&["-p", "x", "--temperature", "-1"][..], "temperature"),
        (
            &["-p", "x", "--top-p", "1.5"],
            "top_p must be between 0 and 1, got 1.5",
        ),
        (
            &["-p", "x", "--device", "gpu"],
            "expected cpu, wgpu, wgpu:N, cuda or cuda:N",
        ),
        (&["-p", ""], "prompt"),
        (
            &["--chat", "-p", "x"],
            "the model has no chat template; name one with --template",
        ),
        (&["--chat", "-p", "x", "--template", "chatmll"], "chatml"),
        (
            &["-p", "x", "--max-tokens", "0"],
            "max_tokens must be at least 1, got 0",
        ),
    ] {
        let message = stderr(&mut generate(model.path(), arguments));
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
}

#[test]
fn a_prompt_beyond_the_context_is_refused_with_both_lengths() {
    let model = tiny_model();
    let prompt = "abc ".repeat(100);
    let message = stderr(&mut generate(model.path(), &["-p", &prompt]));
    assert!(message.contains("in a context of 256"), "{message}");
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let model = tiny_model();
    let other = fixture_path("tokenizers/llama3_bpe.json");
    fs::copy(other, model.path().join("tokenizer.json")).unwrap();
    let message = stderr(&mut generate(model.path(), &["-p", "x"]));
    assert!(message.contains("272"), "{message}");
}

#[test]
fn damaged_models_are_errors_not_crashes() {
    let model = tiny_model();
    let weights = model.path().join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    let message = stderr(&mut generate(model.path(), &["-p", "x"]));
    assert!(
        message.contains("model.safetensors") && !message.contains("panicked"),
        "{message}"
    );

    fs::write(model.path().join("broken.gguf"), b"GGUF\x03\0\0\0").unwrap();
    let message = stderr(&mut generate(
        &model.path().join("broken.gguf"),
        &["-p", "x"],
    ));
    assert!(
        message.contains("broken.gguf") && !message.contains("panicked"),
        "{message}"
    );
}
