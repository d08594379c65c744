//! The tasks that come with the crate, on rows with the columns of their data sets on the hub.

use std::fs;
use std::path::{Path, PathBuf};

use flametune_eval::{DataFolders, EvalOptions, Evaluation, Result, TaskLibrary, evaluate};
use flametune_testkit::fixture_path;
use serde_json::Value;

use crate::scripted::Scripted;

fn golden() -> Value {
    let text = fs::read_to_string(fixture_path("eval/builtin.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn run(task: &str, golden: &Value, data: DataFolders) -> Result<Evaluation> {
    let mut options = EvalOptions {
        bootstrap_iters: 0,
        data,
        ..EvalOptions::default()
    };
    let shots = golden["num_fewshot"].as_u64().unwrap();
    options.prompt.num_fewshot = Some(usize::try_from(shots).unwrap());
    let selection = TaskLibrary::builtin()?.select(&[task])?;
    evaluate(
        &Scripted::default(),
        &selection,
        &options,
        None,
        &mut |_| {},
    )
}

fn write(file: &Path, rows: &[Value]) {
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    fs::write(file, lines.join("\n")).unwrap();
}

/// Puts a data set where the Hugging Face libraries keep one, in two shards a split.
fn on_hub(hub: &Path, golden: &Value) {
    let dataset = golden["dataset"].as_str().unwrap().replace('/', "--");
    let folder = hub.join(format!("datasets--{dataset}"));
    fs::create_dir_all(folder.join("refs")).unwrap();
    fs::write(folder.join("refs/main"), "0abc").unwrap();
    let folder = folder.join("snapshots/0abc");
    let folder = folder.join(golden["name"].as_str().unwrap_or("data"));
    for (split, rows) in golden["splits"].as_object().unwrap() {
        let (first, second) = rows.as_array().unwrap().split_at(1);
        for (index, rows) in [first, second].into_iter().enumerate() {
            write(
                &folder.join(format!("{split}-0000{index}-of-00002.jsonl")),
                rows,
            );
        }
    }
}

fn in_files(root: &Path, golden: &Value) {
    let folder = root.join(golden["dataset"].as_str().unwrap());
    let folder = folder.join(golden["name"].as_str().unwrap_or("."));
    for (split, rows) in golden["splits"].as_object().unwrap() {
        write(
            &folder.join(format!("{split}.jsonl")),
            rows.as_array().unwrap(),
        );
    }
}

#[test]
fn models_are_asked_what_lm_eval_asks_them() {
    for (task, golden) in golden().as_object().unwrap() {
        let folder = tempfile::tempdir().unwrap();
        let (hub, local) = (folder.path().join("hub"), folder.path().join("local"));
        on_hub(&hub, golden);
        in_files(&local, golden);
        let places = [
            DataFolders {
                hub: vec![PathBuf::from("absent"), hub],
                ..DataFolders::default()
            },
            DataFolders {
                local: vec![local],
                ..DataFolders::default()
            },
        ];
        for place in places {
            let evaluation = run(task, golden, place).unwrap();
            let [result] = evaluation.tasks.as_slice() else {
                panic!("{task}: one task");
            };
            // With several pipelines of filters a document has a sample of each.
            let first = &result.samples[0].filter;
            let samples = result
                .samples
                .iter()
                .filter(|sample| sample.filter == *first);
            let expected = golden["samples"].as_array().unwrap();
            assert_eq!(samples.clone().count(), expected.len(), "{task}");
            for (sample, expected) in samples.zip(expected) {
                let wanted = expected["arguments"].as_array().unwrap();
                assert_eq!(sample.arguments.len(), wanted.len(), "{task}");
                for (own, wanted) in sample.arguments.iter().zip(wanted) {
                    for (at, wanted) in wanted.as_array().unwrap().iter().enumerate() {
                        assert_eq!(&own[at], wanted, "{task}: document {}", sample.doc_id);
                    }
                }
                assert_eq!(sample.target, expected["target"], "{task}");
            }
        }
    }
}

#[test]
fn data_that_were_not_fetched_are_named_with_the_way_to_get_them() {
    let data = DataFolders {
        local: vec!["files".into()],
        hub: vec!["hub".into()],
    };
    let golden = &golden()["gsm8k"];
    let error = run("gsm8k", golden, data).unwrap_err().to_string();
    assert!(
        error.contains("no data for the split \"test\": looked for files/openai/gsm8k/main/test, "),
        "{error}"
    );
    assert!(
        error.ends_with(" places more; `cargo xtask fetch hub:datasets/openai/gsm8k` fetches it"),
        "{error}"
    );
}
