//! `flametune eval`, `gate`, `judge` and `ab`, with servers that are scripted.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use assert_cmd::Command;
use flametune_testkit::fixture_path;
use serde_json::{Value, json};
use tempfile::TempDir;
use wiremock::matchers::{body_partial_json, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::{flametune, stderr, stdout};

/// The tiny llama that PEFT's adapters belong to, with a byte-level tokenizer of as many tokens.
pub(crate) fn base(folder: &Path) -> PathBuf {
    let model = folder.join("model");
    std::fs::create_dir_all(&model).unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(fixture_path("peft/base_llama").join(file), model.join(file)).unwrap();
    }
    std::fs::copy(
        fixture_path("tokenizers/bytelevel_bpe.json"),
        model.join("tokenizer.json"),
    )
    .unwrap();
    let config =
        json!({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"});
    std::fs::write(model.join("tokenizer_config.json"), config.to_string()).unwrap();
    model
}

pub(crate) fn task(folder: &Path) -> PathBuf {
    let rows: String = (0..6)
        .map(|n| {
            format!(
                "{}\n",
                json!({"q": format!("q {n}"), "c": ["a b", "d e"], "a": n % 2})
            )
        })
        .collect();
    std::fs::write(folder.join("rows.jsonl"), rows).unwrap();
    let task = "task: own\ndataset_kwargs: {data_files: {test: rows.jsonl}}\ntest_split: test\n\
                output_type: multiple_choice\ndoc_to_text: q\ndoc_to_choice: c\ndoc_to_target: a\n";
    let file = folder.join("own.yaml");
    std::fs::write(&file, task).unwrap();
    file
}

pub(crate) fn in_folder(folder: &Path) -> Command {
    let mut command = flametune();
    command.current_dir(folder);
    command
}

fn eval_command(folder: &TempDir) -> Command {
    let (model, task) = (base(folder.path()), task(folder.path()));
    let mut command = in_folder(folder.path());
    command.arg("eval").arg(model).arg("--include").arg(task);
    command.args(["--tasks", "own", "--bootstrap", "10", "--max-length", "32"]);
    command
}

#[test]
fn eval_compares_an_adapter_with_its_base_and_writes_everything() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = eval_command(&folder);
    command
        .arg("--adapter")
        .arg(format!("tuned={}", fixture_path("peft/lora").display()));
    command.args(["--output", "out", "--html", "report.html"]);
    let text = stdout(&mut command);
    assert!(
        text.contains("tuned against base") && text.contains("acc_norm,none"),
        "{text}"
    );
    let results: Value = serde_json::from_str(
        &std::fs::read_to_string(folder.path().join("out/results.json")).unwrap(),
    )
    .unwrap();
    let base = &results["models"]["base"];
    assert_eq!(base["n-samples"]["own"]["effective"], 6);
    assert!(
        base["results"]["own"]["acc,none"].is_number()
            && base["results"]["own"]["acc_stderr,none"].is_number()
    );
    assert_eq!(
        results["comparisons"][0]["rows"].as_array().unwrap().len(),
        2
    );
    let samples =
        std::fs::read_to_string(folder.path().join("out/samples-tuned-own.jsonl")).unwrap();
    assert_eq!(samples.lines().count(), 6);
    let page = std::fs::read_to_string(folder.path().join("report.html")).unwrap();
    assert!(page.contains("<svg"));
    // The same again is read from the store: one file a model.
    let stored = std::fs::read_dir(folder.path().join(".flametune-eval"))
        .unwrap()
        .count();
    assert_eq!(stored, 2);
    let again: Value = serde_json::from_str(&stdout(eval_command(&folder).arg("--json"))).unwrap();
    assert_eq!(again["models"]["base"]["results"], base["results"]);
}

#[test]
fn eval_says_what_is_wrong_before_it_loads_anything() {
    let folder = tempfile::tempdir().unwrap();
    let text = stderr(in_folder(folder.path()).args(["eval", "nowhere", "--tasks", "hellaswg"]));
    assert!(
        text.contains("there is no task, group or tag \"hellaswg\"; near names: hellaswag"),
        "{text}"
    );
    let text = stderr(in_folder(folder.path()).args(["eval", "nowhere"]));
    assert!(text.contains("name tasks with --tasks"), "{text}");
    let text = stderr(eval_command(&folder).args(["--limit", "0"]));
    assert!(text.contains("--limit must be above 0"), "{text}");
    let names = stdout(in_folder(folder.path()).args(["eval", "--list"]));
    assert!(
        names.lines().any(|name| name == "mmlu_astronomy"),
        "{names}"
    );
}

fn gate_command(folder: &TempDir, rules: &str, url: &str) -> Command {
    let (model, task) = (base(folder.path()), task(folder.path()));
    std::fs::write(folder.path().join("gate.toml"), rules).unwrap();
    let mut command = in_folder(folder.path());
    command
        .arg("gate")
        .arg(fixture_path("peft/lora"))
        .arg("--model")
        .arg(model);
    command.arg("--include").arg(task);
    command.args([
        "--rules",
        "gate.toml",
        "--bootstrap",
        "0",
        "--server",
        url,
        "--name",
        "helper",
    ]);
    command
}

pub(crate) const LENIENT: &str =
    "[[rule]]\ntask = \"own\"\nmetric = \"acc,none\"\nat_least = 0.0\nmax_drop = 1.0\n";

async fn server(models: &[&str], load: u16, answer: u16) -> MockServer {
    let server = MockServer::start().await;
    let list: Vec<Value> = models.iter().map(|id| json!({"id": id})).collect();
    Mock::given(method("GET"))
        .and(path("/v1/models"))
        .respond_with(ResponseTemplate::new(200).set_body_json(json!({"data": list})))
        .mount(&server)
        .await;
    for (place, status, body) in [
        ("/v1/load_lora_adapter", load, json!("loaded")),
        ("/v1/unload_lora_adapter", 200, json!("unloaded")),
        (
            "/v1/completions",
            answer,
            json!({"choices": [{"text": "x"}]}),
        ),
    ] {
        Mock::given(method("POST"))
            .and(path(place))
            .respond_with(ResponseTemplate::new(status).set_body_json(body))
            .mount(&server)
            .await;
    }
    server
}

/// Paths and bodies of what was posted.
async fn posted(server: &MockServer) -> Vec<(String, Value)> {
    let requests = server.received_requests().await.unwrap();
    let posts = requests
        .iter()
        .filter(|request| request.method.as_str() == "POST");
    posts
        .map(|request| {
            (
                request.url.path().to_owned(),
                serde_json::from_slice(&request.body).unwrap(),
            )
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_passes_is_loaded_and_asked_and_becomes_what_is_live() {
    let server = server(&["base"], 200, 200).await;
    let (url, folder) = (server.uri(), tempfile::tempdir().unwrap());
    tokio::task::spawn_blocking(move || {
        let text = stdout(&mut gate_command(&folder, LENIENT, &url));
        assert!(
            text.contains("the gate is open") && text.contains("published as helper"),
            "{text}"
        );
        // The second time it is compared with itself, which is live, and takes its place.
        let text = stdout(&mut gate_command(&folder, LENIENT, &url));
        assert!(text.contains("live") && text.contains("+0.0000"), "{text}");
    })
    .await
    .unwrap();
    let posted = posted(&server).await;
    let paths: Vec<&str> = posted.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "/v1/load_lora_adapter",
            "/v1/completions",
            "/v1/load_lora_adapter",
            "/v1/completions"
        ]
    );
    assert_eq!(posted[0].1["lora_name"], "helper");
    assert_eq!(posted[0].1["load_inplace"], false);
    assert!(
        posted[0].1["lora_path"]
            .as_str()
            .unwrap()
            .ends_with("peft/lora")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_does_not_answer_is_taken_back() {
    let server = server(&["base"], 200, 500).await;
    let (url, folder) = (server.uri(), tempfile::tempdir().unwrap());
    let state = folder.path().join("flametune-live.json");
    tokio::task::spawn_blocking(move || {
        let text = stderr(&mut gate_command(&folder, LENIENT, &url));
        assert!(
            text.contains("the candidate does not answer; what was live is back"),
            "{text}"
        );
        assert!(!state.exists(), "nothing new is live");
    })
    .await
    .unwrap();
    let posted = posted(&server).await;
    let paths: Vec<&str> = posted.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "/v1/load_lora_adapter",
            "/v1/completions",
            "/v1/unload_lora_adapter"
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_fails_a_rule_never_reaches_the_server() {
    let server = server(&["base"], 200, 200).await;
    let (url, folder) = (server.uri(), tempfile::tempdir().unwrap());
    tokio::task::spawn_blocking(move || {
        let rules = LENIENT.replace("at_least = 0.0", "at_least = 1.1");
        let text = stderr(&mut gate_command(&folder, &rules, &url));
        assert!(
            text.contains("the candidate does not pass; nothing was published"),
            "{text}"
        );
        let text = stderr(&mut gate_command(
            &folder,
            "[[rule]]\ntask = \"own\"\nmetric = \"acc,none\"\n",
            &url,
        ));
        assert!(text.contains("rule 1: it has no condition"), "{text}");
    })
    .await
    .unwrap();
    assert!(posted(&server).await.is_empty());
}

fn pairs(folder: &Path) {
    let line = |id: &str, first: &str, second: &str| {
        json!({"id": id, "prompt": "Which?", "first": first, "second": second, "label": "second"})
            .to_string()
    };
    std::fs::write(
        folder.join("pairs.jsonl"),
        format!(
            "{}\n{}\n",
            line("1", "bad", "good"),
            line("2", "bad", "good")
        ),
    )
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_judges_pairs_and_is_asked_again_when_it_is_busy() {
    let server = MockServer::start().await;
    let answer = |text: &str| {
        ResponseTemplate::new(200)
            .set_body_json(json!({"choices": [{"message": {"content": text}}]}))
    };
    // In order `good` is B, swapped it is A; the first request finds the endpoint busy.
    Mock::given(method("POST"))
        .and(path("/v1/chat/completions"))
        .respond_with(ResponseTemplate::new(503))
        .up_to_n_times(1)
        .mount(&server)
        .await;
    let good_first = json!({"messages": [{}, {"content": "[Question]\nWhich?\n\n[Answer A]\ngood\n[End of answer A]\n\n[Answer B]\nbad\n[End of answer B]"}]});
    Mock::given(method("POST"))
        .and(body_partial_json(
            json!({"model": "big", "temperature": 0.0, "messages": good_first["messages"]}),
        ))
        .respond_with(answer("[[A]]"))
        .mount(&server)
        .await;
    Mock::given(method("POST"))
        .respond_with(answer("So [[B]]"))
        .mount(&server)
        .await;
    let (url, folder) = (format!("{}/v1", server.uri()), tempfile::tempdir().unwrap());
    tokio::task::spawn_blocking(move || {
        pairs(folder.path());
        let mut command = in_folder(folder.path());
        command.args([
            "judge",
            "pairs",
            "pairs.jsonl",
            "--endpoint",
            &url,
            "--judge-model",
            "big",
        ]);
        let text = stdout(command.args(["--output", "verdicts.json"]));
        assert!(
            text.contains("first / second / ties      0 / 2 / 0"),
            "{text}"
        );
        assert!(
            text.contains("agreement with labels      1.000 of 2"),
            "{text}"
        );
        let report: Value = serde_json::from_str(
            &std::fs::read_to_string(folder.path().join("verdicts.json")).unwrap(),
        )
        .unwrap();
        assert_eq!(report["bias"]["consistency"], 1.0);
    })
    .await
    .unwrap();
    // Both pairs are the same to the judge, so the second comes from the store: one refusal and two answers.
    assert_eq!(server.received_requests().await.unwrap().len(), 3);
}

#[test]
fn a_judge_that_cannot_be_reached_is_named_with_the_item() {
    let folder = tempfile::tempdir().unwrap();
    pairs(folder.path());
    let text = stderr(in_folder(folder.path()).args(["judge", "pairs", "pairs.jsonl"]));
    assert!(text.contains("name a judge"), "{text}");
    std::fs::write(
        folder.path().join("pairs.jsonl"),
        "{\"id\": \"1\", \"prompt\": 3}\n",
    )
    .unwrap();
    let text = stderr(in_folder(folder.path()).args([
        "judge",
        "pairs",
        "pairs.jsonl",
        "--endpoint",
        "http://127.0.0.1:9/v1",
        "--judge-model",
        "x",
    ]));
    assert!(text.contains("pairs.jsonl:1"), "{text}");
}

#[test]
fn people_compare_answers_in_a_browser_and_results_are_printed() {
    let folder = tempfile::tempdir().unwrap();
    for model in ["base", "tuned"] {
        let line =
            json!({"id": "1", "prompt": "Which?", "answer": format!("by {model}")}).to_string();
        std::fs::write(folder.path().join(format!("{model}.jsonl")), line + "\n").unwrap();
    }
    let pairs = [
        "ab",
        "pairs",
        "base=base.jsonl",
        "tuned=tuned.jsonl",
        "--output",
        "pairs.jsonl",
    ];
    stdout(in_folder(folder.path()).args(pairs));
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin("flametune"))
        .args([
            "ab",
            "serve",
            "pairs.jsonl",
            "--address",
            "127.0.0.1:0",
            "--key",
            "k",
        ])
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let address = line
        .trim()
        .strip_prefix("raters: http://")
        .unwrap()
        .trim_end_matches('/')
        .to_owned();
    let ask = |request: String| {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        // The server may close the connection before all is acknowledged: what came counts.
        if let Err(error) = stream.read_to_end(&mut answer) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
        }
        String::from_utf8(answer).unwrap()
    };
    let page = ask("GET /rate/ann HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".into());
    assert!(
        page.contains("by base") && page.contains("by tuned"),
        "{page}"
    );
    let form = "item=1&side=tie";
    let vote = format!(
        "POST /rate/ann HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/x-www-form-urlencoded\r\n\
         content-length: {}\r\n\r\n{form}",
        form.len()
    );
    assert!(ask(vote).starts_with("HTTP/1.1 303"));
    child.kill().unwrap();
    child.wait().unwrap();
    let results: Value =
        serde_json::from_str(&stdout(in_folder(folder.path()).args(["ab", "results"]))).unwrap();
    assert_eq!(results["pairs"][0]["ties"], 1);
    let votes = stdout(in_folder(folder.path()).args(["ab", "results", "--export"]));
    assert_eq!(votes.lines().count(), 1);
}
