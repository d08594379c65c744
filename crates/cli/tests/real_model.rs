//! SmolLM2-135M-Instruct from its GGUF file, against transformers on the same file.

use flametune_testkit::{asset_path, fixture_json};

use crate::{flametune, stdout};

/// What the command writes for `arguments`, without the newline at its end.
fn continued(model: &std::path::Path, arguments: &[&str]) -> String {
    let mut command = flametune();
    command
        .arg("generate")
        .arg(model)
        .args(["--quiet", "--max-tokens", "24"])
        .args(arguments);
    let text = stdout(&mut command);
    text.strip_suffix('\n').unwrap().to_owned()
}

#[test]
fn greedy_text_is_that_of_transformers() {
    let name = "SmolLM2-135M-Instruct.Q4_1.gguf";
    let Some(model) = asset_path("smollm2-135m-instruct", name) else {
        return;
    };
    let golden = fixture_json("smollm2/greedy.json");
    let rows = golden.as_array().unwrap();
    let (plain, chats): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row["prompt"].is_string());

    // The prompts as one batch of different lengths.
    let mut arguments = Vec::new();
    let mut expected = String::new();
    for row in &plain {
        let (prompt, text) = (
            row["prompt"].as_str().unwrap(),
            row["text"].as_str().unwrap(),
        );
        arguments.extend(["--prompt", prompt]);
        expected.push_str(&format!("=== {prompt}\n{text}\n\n"));
    }
    assert_eq!(
        continued(&model, &arguments),
        expected.strip_suffix('\n').unwrap()
    );

    for row in chats {
        let content = |role: &str| {
            let messages = row["messages"].as_array().unwrap();
            let message = messages.iter().find(|message| message["role"] == role);
            message.map(|message| message["content"].as_str().unwrap())
        };
        let mut arguments = vec!["--chat", "--prompt", content("user").unwrap()];
        arguments.extend(
            content("system")
                .into_iter()
                .flat_map(|text| ["--system", text]),
        );
        let text = row["text"].as_str().unwrap();
        let expected = text.strip_suffix("<|im_end|>").unwrap_or(text);
        assert_eq!(continued(&model, &arguments), expected);
    }
}
