use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::adapter::{base, golden};
use crate::{flametune, stderr, stdout};

/// A server of the tiny base with one adapter, ended with this value.
pub(crate) struct Server {
    process: Child,
    pub(crate) url: String,
    /// What it reads, kept for as long as it runs.
    files: Vec<tempfile::TempDir>,
}

impl Server {
    fn start() -> Self {
        let (base, lora, folder) = (base(), golden("lora_qv"), tempfile::tempdir().unwrap());
        fs::create_dir(folder.path().join("root")).unwrap();
        let text = format!(
            "[model]\npath = {:?}\nname = \"tiny\"\ndtype = \"f32\"\nchat_template = \"chatml\"\n\
             [engine]\nkv_tokens = 2048\n\
             [adapters]\nroot = {:?}\nload = [{{ name = \"sql\", path = {:?} }}]\n\
             [http]\nport = 0\n",
            base.path(),
            folder.path().join("root"),
            lora.path(),
        );
        let mut server = Self::with_config(&text);
        server.files.extend([base, lora, folder]);
        server
    }

    pub(crate) fn with_config(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("serve.toml");
        fs::write(&config, text).unwrap();
        let mut process = Command::new(assert_cmd::cargo::cargo_bin("flametune"))
            .arg("serve")
            .arg(&config)
            .env("FLAMETUNE_CACHE", "no-such-folder")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let url = loop {
            let line = lines.next().expect("the server ended").unwrap();
            if let Some((_, url)) = line.split_once("serving on ") {
                break url.to_owned();
            }
        };
        // Whoever logs must not wait for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            process,
            url,
            files: vec![folder],
        }
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .build()
            .new_agent();
        let mut response = agent
            .post(format!("{}{path}", self.url))
            .send_json(body)
            .unwrap();
        let status = response.status().as_u16();
        (status, response.body_mut().read_json().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_server_says_what_the_command_says() {
    let server = Server::start();
    let ask = |model: &str| {
        let body = json!({"model": model, "prompt": "Hello", "temperature": 0, "max_tokens": 12});
        let (status, body) = server.post("/v1/completions", &body);
        assert_eq!(status, 200, "{body}");
        body["choices"][0]["text"].as_str().unwrap().to_owned()
    };
    let say = |adapter: &[&str]| {
        let base = base();
        let arguments = [
            "--quiet",
            "--prompt",
            "Hello",
            "--max-tokens",
            "12",
            "--dtype",
            "f32",
        ];
        let mut command = flametune();
        command
            .arg("generate")
            .arg(base.path())
            .args(arguments)
            .args(adapter);
        stdout(&mut command).trim_end_matches('\n').to_owned()
    };
    assert_eq!(ask("tiny"), say(&[]));
    let lora = golden("lora_qv");
    assert_eq!(
        ask("sql"),
        say(&["--adapter", lora.path().to_str().unwrap()])
    );
    let (status, body) = server.post("/v1/completions", &json!({"model": "x", "prompt": "a"}));
    assert_eq!(
        (status, &body["error"]["code"]),
        (404, &json!("model_not_found"))
    );
}

#[test]
fn structured_output_follows_its_schema() {
    let name = "SmolLM2-135M-Instruct.Q4_1.gguf";
    let Some(model) = flametune_testkit::asset_path("smollm2-135m-instruct", name) else {
        return;
    };
    let text = format!("[model]\npath = {model:?}\nname = \"smollm2\"\n[http]\nport = 0\n");
    let server = Server::with_config(&text);
    let schema = json!({
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 12},
            "capital": {"type": "boolean"},
        },
        "required": ["city", "capital"],
        "additionalProperties": false,
    });
    let ask = |more: Value| {
        let mut body = json!({
            "model": "smollm2",
            "messages": [{"role": "user", "content": "Is Paris a capital? Answer as JSON."}],
            "temperature": 0,
            "max_tokens": 60,
        });
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        let (status, body) = server.post("/v1/chat/completions", &body);
        let text = body["choices"][0]["message"]["content"].as_str();
        (status, text.map(str::to_owned), body.clone())
    };
    let format = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
    let (_, answer, body) = ask(json!({"response_format": format}));
    let value: Value = serde_json::from_str(&answer.unwrap()).unwrap();
    let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["city", "capital"], "{body}");
    assert!(value["capital"].is_boolean() && value["city"].is_string());
    let (_, answer, _) = ask(json!({"guided_choice": ["yes", "no"]}));
    assert!(["yes", "no"].contains(&answer.unwrap().as_str()));
    let (_, answer, _) = ask(json!({"guided_regex": "[0-9]{4}"}));
    assert!(answer.unwrap().parse::<u16>().is_ok());
    // What is no schema is the caller's mistake.
    let (status, _, body) = ask(json!({"guided_json": {"type": 3}}));
    assert_eq!(
        (status, &body["error"]["param"]),
        (400, &json!("guided_json")),
        "{body}"
    );
}

#[test]
fn a_load_is_reported() {
    let server = Server::start();
    let text = stdout(flametune().args([
        "bench-serve",
        "--url",
        &server.url,
        "--requests",
        "6",
        "--rate",
        "0",
        "--model",
        "tiny",
        "--model",
        "sql",
        "--prompt-words",
        "3",
        "--max-tokens",
        "4",
        "--ignore-eos",
        "--json",
    ]));
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&report["requests"], &report["failed"]),
        (&json!(6), &json!(0))
    );
    assert_eq!(report["completion_tokens"], 24);
    assert!(report["time_to_first_token_s"]["p99"].as_f64().unwrap() > 0.0);
    let error = stderr(flametune().args([
        "bench-serve",
        "--url",
        &server.url,
        "--requests",
        "2",
        "--rate",
        "0",
        "--model",
        "nobody",
    ]));
    assert!(
        error.contains("2 requests failed; the first: 404"),
        "{error}"
    );
}

#[cfg(unix)]
#[test]
fn a_signal_ends_it_with_success() {
    let mut server = Server::start();
    let id = server.process.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .unwrap()
            .success()
    );
    assert!(server.process.wait().unwrap().success());
}

#[test]
fn mistakes_in_the_file_are_said_before_anything_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("s.toml");
    for (text, expected) in [
        (
            "[http]\nprt = 1\n",
            "s.toml:2: unknown key `prt`; did you mean `port`?",
        ),
        (
            "[limits]\nmax_choices = 0\n",
            "limits.max_choices must be at least 1, got 0",
        ),
        (
            "[model]\npath = \"no-such-model\"\n",
            "`no-such-model` is neither",
        ),
    ] {
        fs::write(&config, text).unwrap();
        let error = stderr(flametune().arg("serve").arg(&config));
        assert!(error.contains(expected), "{error}");
    }
    let error = stderr(flametune().args(["serve", "--set", "http.port=x"]));
    assert!(error.contains("invalid type"), "{error}");
    let example = stdout(flametune().args(["serve", "--print-config"]));
    assert!(example.contains("[engine]\nkv_tokens = 16384"));
}
