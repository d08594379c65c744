use flametune_testkit::fixture_path;

use crate::{flametune, stderr, stdout};

/// The second column of the row that begins with `name`.
pub(crate) fn row<'a>(table: &'a str, name: &str) -> &'a str {
    let line = table
        .lines()
        .find(|line| line.trim_start().starts_with(name));
    let line = line.unwrap_or_else(|| panic!("no row {name} in\n{table}"));
    line.trim_start()[name.len()..].trim()
}

#[test]
fn info_counts_what_the_files_hold() {
    let table = stdout(flametune().arg("info").arg(fixture_path("models/llama")));
    assert_eq!(row(&table, "architecture"), "LlamaForCausalLM (llama)");
    assert_eq!(
        row(&table, "shape"),
        "2 layers, d_model 64, 4 heads of 16, 2 key/value heads"
    );
    assert_eq!(row(&table, "context"), "64 tokens");
    // 2 · 272 · 64 + 2 · (64·64·2 + 64·32·2 + 3·64·112 + 2·64) + 64
    assert_eq!(row(&table, "parameters"), "102,720");
    assert_eq!(row(&table, "KV cache"), "512 B a token in f32");
    assert!(
        row(&table, "tokenizer").starts_with("unusable: "),
        "{table}"
    );
}

#[test]
fn info_shows_windows_and_encoders() {
    let table = stdout(flametune().arg("info").arg(fixture_path("models/gemma2")));
    assert_eq!(row(&table, "context"), "64 tokens, 1 layers see 8 tokens");
    let table = stdout(flametune().arg("info").arg(fixture_path("models/bert_cls")));
    assert_eq!(
        row(&table, "architecture"),
        "BertForSequenceClassification (bert)"
    );
}

#[test]
fn an_unknown_model_says_where_it_was_looked_for_and_what_to_do() {
    let message = stderr(flametune().args(["info", "no-such-model"]));
    assert!(message.contains("`no-such-model` is neither a file or folder nor a fetched model"));
    assert!(message.contains("cargo xtask fetch"), "{message}");
}
