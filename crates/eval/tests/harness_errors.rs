//! What is wrong with a task is said with its name, file, line and document; finished work is kept.

use std::path::Path;

use flametune_eval::{AnswerCache, Error, EvalOptions, Evaluation, Result, TaskLibrary, evaluate};

use crate::scripted::Scripted;

const DATA: &str = r#"{"question": "one?", "choices": ["a", "b"], "answer": 0}
{"question": "two?", "choices": ["c", "d"], "answer": 1}
{"question": "three?", "choices": ["e", "f"], "answer": 0}
"#;

const GOOD: &str = "task: good
dataset_path: json
dataset_kwargs: {data_files: {test: data.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: \"{{question}}\"
doc_to_choice: \"{{choices}}\"
doc_to_target: answer
metric_list:
  - metric: acc
";

fn options() -> EvalOptions {
    EvalOptions {
        bootstrap_iters: 10,
        ..EvalOptions::default()
    }
}

/// Evaluates a task file beside some data with a scripted model.
fn run_with(
    task: &str,
    data: &str,
    model: &Scripted,
    cache: Option<&mut AnswerCache>,
) -> Result<Evaluation> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("data.jsonl"), data).unwrap();
    std::fs::write(folder.path().join("task.yaml"), task).unwrap();
    let mut library = TaskLibrary::default();
    library.add_path(folder.path())?;
    let names: Vec<&str> = library.names();
    evaluate(
        model,
        &library.select(&names)?,
        &options(),
        cache,
        &mut |_| {},
    )
}

fn run(task: &str, data: &str) -> Result<Evaluation> {
    run_with(task, data, &Scripted::default(), None)
}

/// The message of a task that cannot be run, without the folder it was in.
#[track_caller]
fn message(task: &str, data: &str) -> String {
    let text = run(task, data).unwrap_err().to_string();
    let mut out = String::new();
    for word in text.split_inclusive(' ') {
        let open = word.find(|c: char| c != '(' && c != '"').unwrap_or(0);
        match word.rfind('/') {
            Some(at) if word.contains(".yaml") || word.contains(".jsonl") => {
                out.push_str(&word[..open]);
                out.push_str(&word[at + 1..]);
            }
            _ => out.push_str(word),
        }
    }
    out
}

#[test]
fn the_good_task_runs() {
    let evaluation = run(GOOD, DATA).unwrap();
    assert_eq!(evaluation.tasks[0].effective, 3);
    assert_eq!(evaluation.warnings, Vec::<String>::new());
}

#[test]
fn broken_yaml_names_file_and_line() {
    let text = message("task: good\n  dataset_path: [\n", DATA);
    assert!(text.starts_with("task.yaml:2:"), "{text}");
    assert!(
        message("- a\n- list\n", DATA).starts_with("task.yaml:1:1: a task file must be a mapping")
    );
}

#[test]
fn fields_that_are_missing_wrong_or_unknown_name_task_file_and_line() {
    let without = |field: &str| -> String {
        GOOD.lines()
            .filter(|line| !line.starts_with(field))
            .map(|line| format!("{line}\n"))
            .collect()
    };
    assert_eq!(
        message(&without("doc_to_text"), DATA),
        "task good (task.yaml): doc_to_text is missing"
    );
    assert_eq!(
        message(&without("test_split"), DATA),
        "task good (task.yaml): test_split is missing"
    );
    assert_eq!(
        message(&without("doc_to_choice"), DATA),
        "task good (task.yaml): doc_to_choice is missing"
    );
    let with = |field: &str| format!("{GOOD}{field}\n");
    assert_eq!(
        message(&with("num_fewshot: many"), DATA),
        "task good (task.yaml:11): num_fewshot must be a whole number of at least 0, got 'many'"
    );
    assert_eq!(
        message(&with("fewshots: 3"), DATA),
        "task good (task.yaml:11): fewshots: 3 is not supported; it is no field of a task"
    );
    let text = message(&GOOD.replace("multiple_choice", "multiple_choices"), DATA);
    assert!(
        text.starts_with("task good (task.yaml:5): output_type must be one of loglikelihood,"),
        "{text}"
    );
    let text = message(&GOOD.replace("metric: acc", "metric: accuracy"), DATA);
    assert!(
        text.starts_with(
            "task good (task.yaml:9): metric_list[0].metric: 'accuracy' is not supported; known"
        ),
        "{text}"
    );
    let text = message(&GOOD.replace("metric: acc", "metric: bleu"), DATA);
    assert!(
        text.ends_with("an answer of the type multiple_choice gives it nothing"),
        "{text}"
    );
    let text = message(&with("process_docs: !function utils.fix"), DATA);
    assert!(text.starts_with("task good (task.yaml:11): process_docs: '!function utils.fix' is not supported; Python is not run"), "{text}");
    let filters = "filter_list:\n  - name: x\n    filter:\n      - function: regex\n        regex_pattern: \"(?=a)\"";
    let text = message(&with(filters), DATA);
    assert!(
        text.contains(
            "(task.yaml:11): filter_list[0].filter[0].regex_pattern: '(?=a)' is not supported"
        ),
        "{text}"
    );
}

#[test]
fn a_template_that_raises_names_line_and_document() {
    let task = GOOD.replace("{{question}}", "{{question}} {{1 // (answer - 1)}}");
    let text = message(&task, DATA);
    assert!(
        text.starts_with("task good (task.yaml:6), document 1 (data.jsonl:2): doc_to_text: "),
        "{text}"
    );
    let text = message(&GOOD.replace("{{question}}", "{{questoin}}"), DATA);
    assert!(
        text.starts_with(
            "task good (task.yaml:6), document 0 (data.jsonl:1): doc_to_text: undefined value"
        ),
        "{text}"
    );
    let block = GOOD.replace(
        "doc_to_text: \"{{question}}\"",
        "doc_to_text: |\n  {{question}}\n  {{nothing.here}}",
    );
    let text = message(&block, DATA);
    assert!(
        text.starts_with("task good (task.yaml:8), document 0"),
        "{text}"
    );
    let endless = GOOD.replace(
        "{{question}}",
        "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
    );
    assert!(
        message(&endless, DATA).contains("doc_to_text"),
        "a template cannot run for ever"
    );
}

#[test]
fn documents_without_choices_or_with_a_foreign_answer_are_named() {
    let empty = DATA.replace("[\"c\", \"d\"]", "[]");
    assert_eq!(
        message(GOOD, &empty),
        "task good (task.yaml:7), document 1 (data.jsonl:2): doc_to_choice gives no choices"
    );
    let foreign = DATA.replace("\"answer\": 1", "\"answer\": 7");
    let evaluation = run(GOOD, &foreign).unwrap();
    assert_eq!(evaluation.warnings.len(), 1);
    assert!(
        evaluation.warnings[0].contains("document 1")
            && evaluation.warnings[0].contains("the answer 7 is none of the 2 choices")
    );
    let wrong = DATA.replace("[\"c\", \"d\"]", "\"cd\"");
    let text = message(&GOOD.replace("\"{{choices}}\"", "choices"), &wrong);
    assert!(
        text.contains(
            "document 1 (data.jsonl:2): doc_to_choice must be a list of choices, got 'cd'"
        ),
        "{text}"
    );
}

#[test]
fn data_that_is_not_there_or_broken_is_named() {
    let text = message(&GOOD.replace("data.jsonl", "other.jsonl"), DATA);
    assert!(
        text.starts_with("task good (task.yaml:2): no data for the split \"test\": looked for "),
        "{text}"
    );
    let text = message(GOOD, "{\"question\": \n");
    assert!(
        text.starts_with("task good (task.yaml:2): data.jsonl:1"),
        "{text}"
    );
    let text = message(GOOD, "");
    assert!(
        text.contains("the split \"test\" has no documents"),
        "{text}"
    );
}

#[test]
fn too_few_documents_for_the_examples_are_counted() {
    let task = format!("{GOOD}fewshot_split: test\nnum_fewshot: 3\n");
    let text = message(&task, DATA);
    assert_eq!(
        text,
        "task good (task.yaml:12), document 0 (data.jsonl:1): 4 few-shot examples wanted, 3 documents to take them from"
    );
}

#[test]
fn files_that_include_each_other_are_found() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.yaml"), "include: b.yaml\ntask: a\n").unwrap();
    std::fs::write(folder.path().join("b.yaml"), "include: a.yaml\n").unwrap();
    let error = TaskLibrary::default()
        .add_path(&folder.path().join("a.yaml"))
        .unwrap_err();
    assert!(matches!(error, Error::IncludeCycle { .. }), "{error}");
}

#[test]
fn unknown_tasks_and_groups_in_circles_are_errors() {
    let library = TaskLibrary::builtin().unwrap();
    let text = library.select(&["helaswag"]).unwrap_err().to_string();
    assert_eq!(
        text,
        "there is no task, group or tag \"helaswag\"; near names: hellaswag"
    );
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.yaml"), "group: a\ntask: [b]\n").unwrap();
    std::fs::write(folder.path().join("b.yaml"), "group: b\ntask: [a]\n").unwrap();
    let mut library = TaskLibrary::default();
    library.add_path(folder.path()).unwrap();
    assert_eq!(
        library.select(&["a"]).unwrap_err().to_string(),
        "group a contains itself"
    );
}

#[test]
fn every_task_that_comes_with_the_crate_is_whole() {
    let library = TaskLibrary::builtin().unwrap();
    let selection = library.select(&library.names()).unwrap();
    assert!(selection.tasks.len() > 70, "{}", selection.tasks.len());
    assert_eq!(library.select(&["mmlu_stem"]).unwrap().tasks.len(), 19);
    assert_eq!(library.select(&["hhh_*"]).unwrap().tasks.len(), 4);
    let forgetting = library.select(&["forgetting"]).unwrap();
    assert_eq!(forgetting.groups[0].children.len(), 5);
}

fn scores(folder: &Path, model: &Scripted) -> Result<Evaluation> {
    let mut cache = AnswerCache::open(folder, "scripted").unwrap();
    run_with(GOOD, DATA, model, Some(&mut cache))
}

#[test]
fn an_interrupted_evaluation_asks_only_for_what_is_missing() {
    let whole = run(GOOD, DATA).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let dying = Scripted {
        fail_after: Some(4),
        ..Scripted::default()
    };
    let error = scores(folder.path(), &dying).unwrap_err();
    assert_eq!(error.to_string(), "scripted model: interrupted");
    // A crash while a line was written leaves half of one.
    let file = std::fs::read_dir(folder.path())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let mut text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text.lines().count(), 4);
    text.push_str("{\"k\":\"half");
    std::fs::write(&file, text).unwrap();
    let model = Scripted::default();
    let resumed = scores(folder.path(), &model).unwrap();
    assert_eq!(model.asked.get(), 2, "six answers, four of them stored");
    assert_eq!(resumed.to_json().to_string(), whole.to_json().to_string());
    let model = Scripted::default();
    scores(folder.path(), &model).unwrap();
    assert_eq!(model.asked.get(), 0);
}

#[test]
fn a_store_with_a_foreign_line_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(AnswerCache::open(folder.path(), "x").unwrap());
    let file = std::fs::read_dir(folder.path())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    std::fs::write(&file, "not an answer\n{}\n").unwrap();
    let text = AnswerCache::open(folder.path(), "x")
        .unwrap_err()
        .to_string();
    assert!(text.contains("line 1 is no stored answer"), "{text}");
}
