//! `flametune gate` beside a server that runs.

use std::fs;
use std::path::{Path, PathBuf};

use flametune_testkit::fixture_path;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::evaluation::{LENIENT, base, in_folder, task};
use crate::serve::Server;
use crate::{stderr, stdout};

/// A folder with a model, a task, adapters and a server of the model.
struct Site {
    folder: TempDir,
    server: Server,
}

/// Copies a golden adapter to where the server may load from.
fn adapter(root: &Path, golden: &str, name: &str) -> PathBuf {
    let folder = root.join(name);
    fs::create_dir_all(&folder).unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        let from = fixture_path(format!("peft/{golden}")).join(file);
        fs::copy(from, folder.join(file)).unwrap();
    }
    folder
}

/// Makes all weights of an adapter so large that nothing finite comes out.
fn overflow(adapter: &Path) {
    let file = adapter.join("adapter_model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    let start = 8 + usize::try_from(header).unwrap();
    for number in bytes[start..].chunks_exact_mut(4) {
        number.copy_from_slice(&1e30f32.to_le_bytes());
    }
    fs::write(file, bytes).unwrap();
}

impl Site {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = base(folder.path());
        task(folder.path());
        let root = folder.path().join("adapters");
        adapter(&root, "lora_qv", "first");
        adapter(&root, "lora", "second");
        overflow(&adapter(&root, "lora_qv", "broken"));
        let server = Server::with_config(&format!(
            "[model]\npath = {model:?}\nname = \"tiny\"\ndtype = \"f32\"\n\
             [engine]\nkv_tokens = 2048\n[adapters]\nroot = {root:?}\n[http]\nport = 0\n",
        ));
        Self { folder, server }
    }

    fn adapter(&self, name: &str) -> PathBuf {
        self.folder.path().join("adapters").join(name)
    }

    fn gate(&self, candidate: &str, rules: &str) -> assert_cmd::Command {
        fs::write(self.folder.path().join("gate.toml"), rules).unwrap();
        let mut command = in_folder(self.folder.path());
        command.arg("gate").arg(self.adapter(candidate));
        command.args(["--model", "model", "--include", "own.yaml"]);
        command.args(["--rules", "gate.toml", "--bootstrap", "0", "--name"]);
        command.args(["helper", "--server", &self.server.url]);
        command
    }

    fn rollback(&self) -> assert_cmd::Command {
        let mut command = in_folder(self.folder.path());
        command.args(["gate", "--rollback", "--name", "helper", "--server"]);
        command.arg(&self.server.url);
        command
    }

    /// The status of a request to the published adapter, and how likely it found its tokens.
    fn answer(&self) -> (u16, Value) {
        let body = json!({
            "model": "helper", "prompt": "Hello", "max_tokens": 4, "temperature": 0, "logprobs": 0,
        });
        let (status, body) = self.server.post("/v1/completions", &body);
        let numbers = &body["choices"][0]["logprobs"]["token_logprobs"];
        (status, numbers.clone())
    }
}

#[test]
fn candidates_are_published_refused_taken_back_and_rolled_back() {
    let site = Site::start();
    assert_eq!(site.answer().0, 404);

    // What passes is served.
    let text = stdout(&mut site.gate("first", LENIENT));
    assert!(text.contains("published as helper"), "{text}");
    let first = site.answer();
    assert!(first.0 == 200 && first.1.is_array(), "{first:?}");

    // What fails a rule changes nothing.
    let strict = LENIENT.replace("at_least = 0.0", "at_least = 1.1");
    let text = stderr(&mut site.gate("second", &strict));
    assert!(text.contains("nothing was published"), "{text}");
    assert_eq!(site.answer(), first);

    // What the server refuses changes nothing.
    let text = stderr(
        site.gate("second", LENIENT)
            .args(["--server-path", "nowhere"]),
    );
    assert!(text.contains("what was live still is"), "{text}");
    assert_eq!(site.answer(), first);

    // What does not answer is taken back.
    let broken = site.adapter("broken");
    let text = stderr(
        site.gate("second", LENIENT)
            .arg("--server-path")
            .arg(&broken),
    );
    assert!(
        text.contains("the candidate does not answer; what was live is back"),
        "{text}"
    );
    assert_eq!(site.answer(), first);

    // The next one takes its place at once, and gives it back when asked to.
    stdout(&mut site.gate("second", LENIENT));
    let second = site.answer();
    assert!(second.0 == 200 && second != first, "{second:?}");
    let text = stdout(&mut site.rollback());
    assert!(text.contains("adapters/first again"), "{text}");
    assert_eq!(site.answer(), first);
    let text = stdout(&mut site.rollback());
    assert!(text.contains("is no longer on"), "{text}");
    assert_eq!(site.answer().0, 404);
    let text = stderr(&mut site.rollback());
    assert!(
        text.contains("flametune-live.json names no helper"),
        "{text}"
    );
}

#[test]
fn a_server_that_is_down_is_named_before_anything_is_evaluated() {
    let site = Site::start();
    let url = site.server.url.clone();
    let mut command = site.gate("first", LENIENT);
    let Site { folder, server } = site;
    drop(server);
    let text = stderr(&mut command);
    assert!(text.contains(&format!("cannot reach {url}")), "{text}");
    assert!(!folder.path().join(".flametune-eval").exists());
    assert!(!folder.path().join("flametune-live.json").exists());
}
